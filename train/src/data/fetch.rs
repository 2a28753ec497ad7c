//! Downloading the official archives: resumed where it was cut, checked, and unpacked whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};
use sr2_formats::{Error, Result};
use ureq::http::{Response, StatusCode, header};

use super::pixels::IMAGE_BYTES;
use super::{DatasetKind, Part};

/// Longest download accepted; the archives are about 170 MB.
const MOST_BYTES: u64 = 512 << 20;
/// Wait for a connection, for the answer to a request, and for the next bytes of a body.
const PATIENCE: Duration = Duration::from_secs(60);
const BUFFER_BYTES: usize = 1 << 16;

/// An archive to fetch.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    pub(super) url: String,
    /// Lower-case hexadecimal.
    pub(super) sha256: String,
    /// Folder inside the archive.
    pub(super) folder: String,
    /// Files to keep from that folder, with their sizes.
    pub(super) files: Vec<(String, u64)>,
}

/// Downloads a dataset's official archive into `folder` (usually [`super::cache_folder`]) and unpacks the binary files
/// there; does nothing if all of them are there already, and replaces a folder that lacks some or holds others in part. `url` replaces the official address by a mirror's. `progress` gets
/// the bytes so far and, where the server tells, their total.
///
/// What a broken connection left is kept beside it as `.part`, and the next call goes on from there.
///
/// # Errors
/// If the server cannot be reached or refuses, the content is not the official one (SHA-256), or the disk refuses.
pub fn fetch(
    kind: DatasetKind,
    folder: &Path,
    url: Option<&str>,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf> {
    let mut archive = official(kind);
    if let Some(url) = url {
        archive.url = url.to_owned();
    }
    fetch_archive(&archive, folder, progress)
}

/// The SHA-256 sums are those of TensorFlow Datasets and of the Julia and Ruby loaders; their authors publish MD5 only.
fn official(kind: DatasetKind) -> Archive {
    let (name, sha256) = match kind {
        DatasetKind::Cifar10 => ("cifar-10-binary", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
        DatasetKind::Cifar100 => {
            ("cifar-100-binary", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec")
        }
    };
    let files = Part::ALL.into_iter().flat_map(|part| {
        let bytes = (kind.records_per_file(part) * (kind.label_bytes() + IMAGE_BYTES)) as u64;
        kind.binary_files(part).iter().map(move |&file| (file.to_owned(), bytes))
    });
    Archive {
        url: format!("https://www.cs.toronto.edu/~kriz/{name}.tar.gz"),
        sha256: sha256.to_owned(),
        folder: kind.official_folder().to_owned(),
        files: files.collect(),
    }
}

pub(super) fn fetch_archive(
    archive: &Archive,
    folder: &Path,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<PathBuf> {
    let unpacked = folder.join(&archive.folder);
    if is_whole(archive, &unpacked) {
        return Ok(unpacked);
    }
    fs::create_dir_all(folder).map_err(|error| Error::io(folder, "create", error))?;
    let mut part = PartFile::open(folder.join(format!("{}.tar.gz.part", archive.folder)))?;
    let resumed = part.length > 0;
    download(&archive.url, &mut part, progress)?;
    let mut found = part.sha256()?;
    if resumed && found != archive.sha256 {
        part.clear()?;
        download(&archive.url, &mut part, progress)?;
        found = part.sha256()?;
    }
    if found != archive.sha256 {
        part.remove()?;
        let message = format!("SHA-256 of the download is {found}, expected {}", archive.sha256);
        return Err(Error::malformed(&archive.url, message));
    }
    unpack(archive, &part, folder)?;
    part.remove()?;
    Ok(unpacked)
}

/// Whether all files are there in their sizes.
fn is_whole(archive: &Archive, unpacked: &Path) -> bool {
    let is_there = |name: &str, bytes| unpacked.join(name).metadata().is_ok_and(|m| m.is_file() && m.len() == bytes);
    archive.files.iter().all(|(name, bytes)| is_there(name, *bytes))
}

/// Appends to `part` what it lacks of the content at `url`; begins again if the server cannot go on from there.
fn download(url: &str, part: &mut PartFile, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<()> {
    let mut response = request(url, part.length)?;
    if !continues(&response, part.length) {
        let whole = response.status() == StatusCode::OK;
        part.clear()?;
        if !whole {
            response = request(url, 0)?;
        }
    }
    if !continues(&response, part.length) {
        let reason = io::Error::other(format!("the server answered {}, expected 200 OK", response.status()));
        return Err(Error::io(url, "download", reason));
    }
    let total = response.body().content_length().map(|rest| rest + part.length);
    let mut body = response.into_body().into_reader().take(MOST_BYTES - part.length.min(MOST_BYTES));
    let mut buffer = vec![0; BUFFER_BYTES];
    progress(part.length, total);
    loop {
        let count = body.read(&mut buffer).map_err(|error| cut(url, part.length, total, &error))?;
        if count == 0 {
            break;
        }
        part.append(&buffer[..count])?;
        progress(part.length, total);
    }
    match total {
        Some(total) if part.length < total => Err(cut(url, part.length, Some(total), &"connection closed")),
        _ => Ok(()),
    }
}

fn request(url: &str, from: u64) -> Result<Response<ureq::Body>> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE));
    let agent = ureq::Agent::new_with_config(config.build());
    let mut request = agent.get(url);
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    request.call().map_err(|error| Error::io(url, "download", error.into_io()))
}

/// Whether the body of `response` follows on from the first `have` bytes.
fn continues(response: &Response<ureq::Body>, have: u64) -> bool {
    match response.status() {
        StatusCode::OK => have == 0,
        StatusCode::PARTIAL_CONTENT => response
            .headers()
            .get(header::CONTENT_RANGE)
            .and_then(|range| range.to_str().ok())
            .is_some_and(|range| range.starts_with(&format!("bytes {have}-"))),
        _ => false,
    }
}

fn cut(url: &str, done: u64, total: Option<u64>, reason: &dyn std::fmt::Display) -> Error {
    let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
    let message = format!("{reason} after {done}{of} bytes; run the command again to go on from there");
    Error::io(url, "download", io::Error::other(message))
}

/// What has been downloaded so far, held by one process at a time.
struct PartFile {
    path: PathBuf,
    file: File,
    length: u64,
}

impl PartFile {
    fn open(path: PathBuf) -> Result<Self> {
        let opened = OpenOptions::new().read(true).append(true).create(true).open(&path);
        let file = opened.map_err(|error| Error::io(&path, "open", error))?;
        file.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => {
                let reason = io::Error::new(io::ErrorKind::WouldBlock, "another process is downloading it");
                Error::io(&path, "lock", reason)
            }
            fs::TryLockError::Error(error) => Error::io(&path, "lock", error),
        })?;
        let length = file.metadata().map_err(|error| Error::io(&path, "read", error))?.len();
        Ok(Self { path, file, length })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|error| Error::io(&self.path, "write", error))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(|error| Error::io(&self.path, "write", error))?;
        self.length = 0;
        Ok(())
    }

    fn reader(&self) -> Result<BufReader<&File>> {
        let mut file = &self.file;
        file.rewind().map_err(|error| Error::io(&self.path, "read", error))?;
        Ok(BufReader::with_capacity(BUFFER_BYTES, file))
    }

    fn sha256(&self) -> Result<String> {
        let mut reader = self.reader()?;
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = reader.read(&mut buffer).map_err(|error| Error::io(&self.path, "read", error))?;
            if count == 0 {
                return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
            }
            hasher.update(&buffer[..count]);
        }
    }

    fn remove(&self) -> Result<()> {
        fs::remove_file(&self.path).map_err(|error| Error::io(&self.path, "remove", error))
    }
}

/// Unpacks the archive's files beside their final place, then renames the folder: it is there whole or not at all.
fn unpack(archive: &Archive, part: &PartFile, folder: &Path) -> Result<()> {
    let temporary = tempfile::tempdir_in(folder).map_err(|error| Error::io(folder, "create a folder in", error))?;
    let staged = temporary.path().join(&archive.folder);
    fs::create_dir(&staged).map_err(|error| Error::io(&staged, "create", error))?;
    let malformed = |error: io::Error| Error::malformed(&part.path, format!("cannot unpack: {error}"));

    let mut wanted = archive.files.clone();
    let mut tar = tar::Archive::new(GzDecoder::new(part.reader()?));
    for entry in tar.entries().map_err(malformed)? {
        let mut entry = entry.map_err(malformed)?;
        let path = entry.path().map_err(malformed)?.into_owned();
        let Some(index) = wanted.iter().position(|(name, _)| path == Path::new(&archive.folder).join(name)) else {
            continue;
        };
        let (name, bytes) = wanted.swap_remove(index);
        if !entry.header().entry_type().is_file() || entry.size() != bytes {
            let message = format!("{name} has {} bytes, expected a file of {bytes}", entry.size());
            return Err(Error::malformed(&part.path, message));
        }
        let target = staged.join(name);
        let mut file = File::create_new(&target).map_err(|error| Error::io(&target, "create", error))?;
        let written = io::copy(&mut entry, &mut file).and_then(|_| file.sync_all());
        written.map_err(|error| Error::io(&target, "unpack", error))?;
    }
    if let Some((name, _)) = wanted.first() {
        return Err(Error::malformed(&part.path, format!("no {name} in the archive")));
    }
    let target = folder.join(&archive.folder);
    if target.exists() {
        let old = temporary.path().join("old");
        fs::rename(&target, &old).map_err(|error| Error::io(&target, "replace", error))?;
    }
    fs::rename(&staged, &target).map_err(|error| Error::io(&target, "create", error))
}
