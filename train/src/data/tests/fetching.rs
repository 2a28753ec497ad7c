//! Fetching from a local HTTP server.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};
use sr2_formats::ErrorKind;

use super::super::fetch::{Archive, fetch_archive};

/// What the server does with the next request.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Serves the range asked for.
    Ranges,
    /// Serves the whole content whatever was asked.
    Whole,
    /// Serves the whole content's head and closes after so many bytes.
    CutAfter(usize),
    /// 416 to a request with a range, else the whole content.
    Unsatisfiable,
    /// 404.
    NotFound,
}

/// Serves `content` once for each of `answers`, then ends; gives back the `Range` header of each request.
struct Server {
    url: String,
    thread: JoinHandle<Vec<Option<String>>>,
}

impl Server {
    fn start(content: Vec<u8>, answers: &[Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/archive.tar.gz", listener.local_addr().unwrap());
        let answers = answers.to_vec();
        let thread = std::thread::spawn(move || {
            answers.iter().map(|&answer| serve(listener.accept().unwrap().0, &content, answer)).collect()
        });
        Self { url, thread }
    }

    fn ranges(self) -> Vec<Option<String>> {
        self.thread.join().unwrap()
    }
}

fn serve(mut stream: TcpStream, content: &[u8], answer: Answer) -> Option<String> {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let range = head.iter().find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned));
    let from = range.as_deref().map(|range| range["bytes=".len()..range.len() - 1].parse::<usize>().unwrap());
    let (status, extra, body) = match (answer, from) {
        (Answer::Ranges, Some(from)) => {
            let range = format!("Content-Range: bytes {from}-{}/{}\r\n", content.len() - 1, content.len());
            ("206 Partial Content", range, &content[from..])
        }
        (Answer::Unsatisfiable, Some(_)) => ("416 Range Not Satisfiable", String::new(), &content[..0]),
        (Answer::NotFound, _) => ("404 Not Found", String::new(), &content[..0]),
        _ => ("200 OK", String::new(), content),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{extra}\r\n", body.len());
    let sent = if let Answer::CutAfter(bytes) = answer { &body[..bytes] } else { body };
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(sent).unwrap();
    range
}

const FILES: [(&str, usize); 2] = [("a.bin", 70_000), ("b.bin", 10)];

/// An archive with the files of [`FILES`] and others that must not be unpacked.
fn packed() -> Vec<u8> {
    let mut tar = tar::Builder::new(flate2::write::GzEncoder::new(vec![], flate2::Compression::fast()));
    let others = [("data/readme.html", 3), ("other/a.bin", 5)].map(|(name, bytes)| (name.to_owned(), bytes));
    for (name, bytes) in FILES.map(|(name, bytes)| (format!("data/{name}"), bytes)).into_iter().chain(others) {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, &content(bytes)[..]).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

/// Bytes that do not compress to nothing.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn archive(url: &str, packed: &[u8]) -> Archive {
    Archive {
        url: url.to_owned(),
        sha256: Sha256::digest(packed).iter().map(|byte| format!("{byte:02x}")).collect(),
        folder: "data".to_owned(),
        files: FILES.map(|(name, bytes)| (name.to_owned(), bytes as u64)).to_vec(),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn assert_unpacked(folder: &Path, unpacked: &Path) {
    assert_eq!(unpacked, folder.join("data"));
    assert_eq!(names(folder), ["data"]);
    assert_eq!(names(unpacked), ["a.bin", "b.bin"]);
    for (name, bytes) in FILES {
        assert_eq!(fs::read(unpacked.join(name)).unwrap(), content(bytes));
    }
}

fn part(folder: &Path) -> PathBuf {
    folder.join("data.tar.gz.part")
}

#[test]
fn a_download_reports_progress_and_unpacks_only_what_is_expected() {
    let (folder, packed) = (tempfile::tempdir().unwrap(), packed());
    let server = Server::start(packed.clone(), &[Answer::Ranges]);
    let mut seen = vec![];
    let archive = archive(&server.url, &packed);
    let unpacked = fetch_archive(&archive, folder.path(), &mut |done, total| seen.push((done, total))).unwrap();
    assert_unpacked(folder.path(), &unpacked);
    assert_eq!(server.ranges(), [None]);
    let total = packed.len() as u64;
    assert_eq!((seen[0], seen[seen.len() - 1]), ((0, Some(total)), (total, Some(total))));
    assert!(seen.is_sorted());
    // The server is gone: what is there is not fetched again.
    fetch_archive(&archive, folder.path(), &mut |_, _| panic!("nothing to download")).unwrap();
}

#[test]
fn a_folder_that_lacks_files_or_has_cut_ones_is_fetched_again() {
    let (folder, packed) = (tempfile::tempdir().unwrap(), packed());
    let server = Server::start(packed.clone(), &[Answer::Ranges, Answer::Ranges]);
    let archive = archive(&server.url, &packed);
    fs::create_dir(folder.path().join("data")).unwrap();
    for _ in 0..2 {
        let unpacked = fetch_archive(&archive, folder.path(), &mut |_, _| ()).unwrap();
        assert_unpacked(folder.path(), &unpacked);
        fs::write(unpacked.join("a.bin"), content(69_999)).unwrap();
    }
}

/// Cuts the first download after 1,000 bytes, then lets the server do `answers`, and expects the `Range` headers.
fn resume(answers: &[Answer], expected: &[Option<&str>]) {
    let (folder, packed) = (tempfile::tempdir().unwrap(), packed());
    let answers = [&[Answer::CutAfter(1000)], answers].concat();
    let server = Server::start(packed.clone(), &answers);
    let archive = archive(&server.url, &packed);
    let error = fetch_archive(&archive, folder.path(), &mut |_, _| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("after 1000 of "), "{error}");
    assert!(error.to_string().contains("run the command again"), "{error}");
    assert_eq!(fs::read(part(folder.path())).unwrap(), packed[..1000]);

    let unpacked = fetch_archive(&archive, folder.path(), &mut |_, _| ()).unwrap();
    assert_unpacked(folder.path(), &unpacked);
    assert_eq!(server.ranges().iter().map(Option::as_deref).skip(1).collect::<Vec<_>>(), expected);
}

#[test]
fn a_cut_download_goes_on_where_it_stopped() {
    resume(&[Answer::Ranges], &[Some("bytes=1000-")]);
}

#[test]
fn a_server_that_ignores_ranges_makes_it_begin_again() {
    resume(&[Answer::Whole], &[Some("bytes=1000-")]);
}

#[test]
fn an_unsatisfiable_range_makes_it_begin_again() {
    resume(&[Answer::Unsatisfiable, Answer::Unsatisfiable], &[Some("bytes=1000-"), None]);
}

#[test]
fn foreign_bytes_in_the_part_file_make_it_begin_again() {
    let (folder, packed) = (tempfile::tempdir().unwrap(), packed());
    let server = Server::start(packed.clone(), &[Answer::Ranges, Answer::Ranges]);
    fs::write(part(folder.path()), [7; 500]).unwrap();
    let unpacked = fetch_archive(&archive(&server.url, &packed), folder.path(), &mut |_, _| ()).unwrap();
    assert_unpacked(folder.path(), &unpacked);
    assert_eq!(server.ranges(), [Some("bytes=500-".to_owned()), None]);
}

#[test]
fn a_wrong_checksum_names_both_sums_and_leaves_nothing() {
    let (folder, packed) = (tempfile::tempdir().unwrap(), packed());
    let server = Server::start(packed.clone(), &[Answer::Whole]);
    let archive = Archive { sha256: "0123abcd".to_owned(), ..archive(&server.url, &packed) };
    let error = fetch_archive(&archive, folder.path(), &mut |_, _| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed);
    assert!(error.to_string().contains("expected 0123abcd"), "{error}");
    assert!(names(folder.path()).is_empty());
}

#[test]
fn a_missing_page_is_an_error_with_its_status() {
    let (folder, packed) = (tempfile::tempdir().unwrap(), packed());
    let server = Server::start(packed.clone(), &[Answer::NotFound, Answer::NotFound]);
    let error = fetch_archive(&archive(&server.url, &packed), folder.path(), &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("404 Not Found"), "{error}");
    assert!(error.to_string().contains(&server.url), "{error}");
}

#[test]
fn an_archive_without_an_expected_file_unpacks_nothing() {
    for (name, bytes, message) in [("c.bin", 1, "no c.bin"), ("a.bin", 1, "a.bin has 70000 bytes")] {
        let (folder, packed) = (tempfile::tempdir().unwrap(), packed());
        let server = Server::start(packed.clone(), &[Answer::Whole]);
        let files = vec![(name.to_owned(), bytes)];
        let archive = Archive { files, ..archive(&server.url, &packed) };
        let error = fetch_archive(&archive, folder.path(), &mut |_, _| ()).unwrap_err();
        assert!(error.to_string().contains(message), "{error}");
        assert!(!folder.path().join("data").exists());
    }
}

#[test]
fn two_downloads_at_once_are_refused() {
    let (folder, packed) = (tempfile::tempdir().unwrap(), packed());
    let file = fs::File::create(part(folder.path())).unwrap();
    file.lock().unwrap();
    let error = fetch_archive(&archive("http://127.0.0.1:9/", &packed), folder.path(), &mut |_, _| ()).unwrap_err();
    assert!(error.to_string().contains("another process"), "{error}");
}
