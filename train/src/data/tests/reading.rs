//! Finding and reading files: what is right comes back exactly, what is wrong gives one clear line.

use std::fs;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int32Type, Int64Type};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rand::RngExt;
use sr2_formats::ErrorKind;
use tempfile::TempDir;

use super::super::draw::Draw;
use super::super::locate::choose;
use super::super::pixels::IMAGE_BYTES;
use super::super::{Cifar, Dataset, DatasetKind, Part, check, image};
use super::{sample, synthetic};

const CIFAR10: DatasetKind = DatasetKind::Cifar10;
const CIFAR100: DatasetKind = DatasetKind::Cifar100;

/// Records of the official binary layout; the coarse label of CIFAR-100 is the fine one's fifth.
fn binary(dataset: &Dataset) -> Vec<u8> {
    let mut bytes = vec![];
    for index in 0..dataset.len() {
        let label = dataset.labels()[index];
        if dataset.kind() == CIFAR100 {
            bytes.push(label / 5);
        }
        bytes.push(label);
        bytes.extend_from_slice(dataset.image(index));
    }
    bytes
}

fn png(planes: &[u8], side: usize, color: png::ColorType) -> Vec<u8> {
    let mut bytes = vec![];
    let mut encoder = png::Encoder::new(Cursor::new(&mut bytes), side as u32, side as u32);
    encoder.set_color(color);
    let pixels = side * side;
    let interleaved: Vec<u8> =
        (0..pixels * color.samples()).map(|i| planes[i % color.samples() * pixels + i / color.samples()]).collect();
    encoder.write_header().unwrap().write_image_data(&interleaved).unwrap();
    bytes
}

/// A Parquet file in the Hugging Face schema.
fn parquet(label_column: &str, rows: &[(Option<Vec<u8>>, i64)]) -> Vec<u8> {
    let schema =
        format!("message schema {{ optional group img {{ optional binary bytes; }} optional int64 {label_column}; }}");
    let mut bytes = vec![];
    let schema = Arc::new(parse_message_type(&schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let images: Vec<ByteArray> = rows.iter().filter_map(|(image, _)| image.clone().map(ByteArray::from)).collect();
    let levels: Vec<i16> = rows.iter().map(|(image, _)| if image.is_some() { 2 } else { 1 }).collect();
    column.typed::<ByteArrayType>().write_batch(&images, Some(&levels), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let labels: Vec<i64> = rows.iter().map(|&(_, label)| label).collect();
    column.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; rows.len()]), None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    bytes
}

fn rows(dataset: &Dataset) -> Vec<(Option<Vec<u8>>, i64)> {
    let row = |i| (Some(png(dataset.image(i), 32, png::ColorType::Rgb)), i64::from(dataset.label(i)));
    (0..dataset.len()).map(row).collect()
}

fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    folder
}

/// Reads `bytes` as the test file `name`, with good training files beside it.
fn load_test(kind: DatasetKind, name: &str, bytes: &[u8]) -> sr2_formats::Result<Dataset> {
    let train = binary(&synthetic(kind, 1));
    let folder = folder(&[(kind.binary_files(Part::Train)[0], &train), (name, bytes)]);
    Cifar::open(folder.path(), kind)?.load_test()
}

fn assert_malformed(found: sr2_formats::Result<Dataset>, file: &str, message: &str) {
    let error = found.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
    assert!(error.path().ends_with(file), "{error}");
    assert!(error.to_string().contains(message), "`{error}` should contain `{message}`");
    assert!(!error.to_string().contains('\n'), "{error}");
}

#[test]
fn binary_files_come_back_exactly_wherever_they_lie() {
    for kind in DatasetKind::ALL {
        let (train, test) = (synthetic(kind, 130), synthetic(kind, 7));
        for place in kind.folders() {
            let name = |part| Path::new(place).join(kind.binary_files(part)[0]).to_str().unwrap().to_owned();
            let folder = folder(&[(&name(Part::Train), &binary(&train)), (&name(Part::Test), &binary(&test))]);
            let cifar = Cifar::open(folder.path(), kind).unwrap();
            assert_eq!(cifar.load_train().unwrap(), train);
            assert_eq!(cifar.load_test().unwrap(), test);
        }
    }
}

#[test]
fn png_in_parquet_comes_back_exactly_under_every_name() {
    for kind in DatasetKind::ALL {
        let (train, test) = (synthetic(kind, 13), synthetic(kind, 7));
        let [train_file, test_file] = [&train, &test].map(|dataset| parquet(kind.label_column(), &rows(dataset)));
        for place in kind.folders() {
            for (train_name, test_name) in Part::Train.parquet_files().into_iter().zip(Part::Test.parquet_files()) {
                let name = |file: &str| Path::new(place).join(file).to_str().unwrap().to_owned();
                let folder = folder(&[(&name(train_name), &train_file), (&name(test_name), &test_file)]);
                let cifar = Cifar::open(folder.path(), kind).unwrap();
                assert_eq!(cifar.load_train().unwrap(), train);
                assert_eq!(cifar.load_test().unwrap(), test);
            }
        }
    }
}

#[test]
fn batches_are_read_one_after_another() {
    let all = synthetic(CIFAR10, 30);
    let bytes = binary(&all);
    let (first, second) = bytes.split_at(20 * (IMAGE_BYTES + 1));
    let files = [("data_batch_1.bin", first), ("data_batch_2.bin", second), ("test_batch.bin", second)];
    let folder = folder(&files);
    assert_eq!(Cifar::open(folder.path(), CIFAR10).unwrap().load_train().unwrap(), all);
}

#[test]
fn an_absent_batch_is_an_error_unless_the_files_are_a_sample() {
    let one = binary(&synthetic(CIFAR10, 1));
    let full = one.repeat(10_000);
    for (files, absent) in [
        (vec![("data_batch_1.bin", &one), ("data_batch_3.bin", &one)], "data_batch_2.bin"),
        (vec![("data_batch_1.bin", &full)], "data_batch_2.bin"),
    ] {
        let files: Vec<(&str, &[u8])> =
            files.into_iter().chain([("test_batch.bin", &one)]).map(|(name, bytes)| (name, &bytes[..])).collect();
        let folder = folder(&files);
        let error = Cifar::open(folder.path(), CIFAR10).unwrap_err();
        assert!(error.to_string().contains(&format!("no {absent}")), "{error}");
    }
}

#[test]
fn the_test_files_are_not_read_before_they_are_asked_for() {
    let folder = folder(&[("data_batch_1.bin", &binary(&synthetic(CIFAR10, 3))), ("test_batch.bin", b"broken")]);
    let cifar = Cifar::open(folder.path(), CIFAR10).unwrap();
    assert_eq!(cifar.load_train().unwrap().len(), 3);
    assert!(cifar.load_test().is_err());
}

#[test]
fn absent_files_are_named_with_the_next_step() {
    let empty = tempfile::tempdir().unwrap();
    let no_folder = PathBuf::from("/no/such/folder");
    let train_only = folder(&[("train.bin", &binary(&synthetic(CIFAR100, 1)))]);
    for (dir, kind, words) in [
        (empty.path(), CIFAR10, "train.parquet, train-00000-of-00001.parquet or data_batch_1.bin"),
        (empty.path(), CIFAR10, "cifar-10-batches-bin/"),
        (empty.path(), CIFAR10, "`sr2-prune data fetch cifar10`"),
        (empty.path(), CIFAR10, "`--data examples/data`"),
        (empty.path(), CIFAR100, "`sr2-prune data fetch cifar100`"),
        (no_folder.as_path(), CIFAR10, "no such folder"),
        (train_only.path(), CIFAR100, "no test.parquet"),
        (train_only.path(), CIFAR10, "the files here are of CIFAR-100"),
    ] {
        let error = Cifar::open(dir, kind).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(words), "`{error}` should contain `{words}`");
    }
}

#[test]
fn broken_binary_files_say_what_is_wrong() {
    for kind in DatasetKind::ALL {
        let name = kind.binary_files(Part::Test)[0];
        let good = binary(&synthetic(kind, 3));
        let other = binary(&synthetic(kind.other(), 3));
        assert_malformed(load_test(kind, name, &[]), name, "empty");
        assert_malformed(load_test(kind, name, &good[..good.len() - 1]), name, "2 CIFAR-10");
        assert_malformed(load_test(kind, name, &other), name, &format!("holds {} records", kind.other().title()));
        let mut bad = good.clone();
        let second = good.len() / 3;
        bad[second + kind.label_bytes() - 1] = kind.classes() as u8;
        let place = format!("record 1 (byte {second}): label {}", kind.classes());
        assert_malformed(load_test(kind, name, &bad), name, &place);
        let long = binary(&synthetic(kind, 1)).repeat(10_001);
        assert_malformed(load_test(kind, name, &long), name, "at most 10000 records");
    }
    let mut bad = binary(&synthetic(CIFAR100, 2));
    bad[0] = 20;
    assert_malformed(load_test(CIFAR100, "test.bin", &bad), "test.bin", "coarse label 20, expected 0 to 19");
}

#[test]
fn broken_parquet_files_say_what_is_wrong() {
    let name = "test.parquet";
    let assert_wrong = |bytes: &[u8], message: &str| assert_malformed(load_test(CIFAR10, name, bytes), name, message);
    let image = |side, color| Some(png(&vec![9; side * side * 4], side, color));
    let good = || image(32, png::ColorType::Rgb);
    let cut = good().map(|image| image[..image.len() / 2].to_vec());

    assert_wrong(b"", "not a Parquet file");
    assert_wrong(&[b'x'; 4000], "not a Parquet file");
    assert_wrong(&parquet("label", &[]), "0 rows");
    assert_wrong(&parquet("fine_label", &[(good(), 1)]), "holds CIFAR-100 (column `fine_label`), but CIFAR-10");
    assert_malformed(load_test(CIFAR100, name, &parquet("label", &[(good(), 1)])), name, "holds CIFAR-10 (");
    assert_wrong(&parquet("other", &[(good(), 1)]), "no column `label`");
    assert_wrong(&parquet("label", &[(good(), 1), (good(), 10)]), "row 1: label 10, expected 0 to 9");
    assert_wrong(&parquet("label", &[(good(), -1)]), "row 0: label -1");
    assert_wrong(&parquet("label", &[(good(), 1), (None, 1)]), "row 1: no `img.bytes`");
    assert_wrong(&parquet("label", &[(Some(vec![]), 1)]), "row 0: 0 bytes that are neither JPEG nor PNG");
    assert_wrong(&parquet("label", &[(image(31, png::ColorType::Rgb), 1)]), "image of 31x31 pixels, expected 32x32");
    assert_wrong(&parquet("label", &[(image(32, png::ColorType::Rgba), 1)]), "Rgba");
    assert_wrong(&parquet("label", &[(cut, 1)]), "row 0: broken PNG");
    let many = vec![(Some(vec![]), 1); 10_001];
    assert_wrong(&parquet("label", &many), "10001 rows, expected 1 to 10000");
}

#[test]
fn a_label_column_of_another_type_is_named() {
    let mut bytes = vec![];
    let schema = "message schema { required group img { required binary bytes; } required int32 label; }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&[ByteArray::from("x")], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int32Type>().write_batch(&[1], None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    assert_malformed(load_test(CIFAR10, "test.parquet", &bytes), "test.parquet", "`label` is INT32, expected INT64");
}

#[test]
fn the_bundled_sample_is_whole_and_balanced() {
    let report = check(&sample(), CIFAR10).unwrap();
    assert_eq!(report.problems, Vec::<String>::new());
    let counts: Vec<_> = report.parts.iter().map(|part| (part.images, part.class_counts.clone())).collect();
    assert_eq!(counts, [(2000, vec![200; 10]), (500, vec![50; 10])]);
}

#[test]
fn check_reports_a_broken_part_and_still_counts_the_other() {
    let train = synthetic(CIFAR10, 20);
    let folder = folder(&[("data_batch_1.bin", &binary(&train)), ("test_batch.bin", b"broken")]);
    let report = check(folder.path(), CIFAR10).unwrap();
    assert_eq!(report.parts.len(), 1);
    assert_eq!((report.parts[0].part, report.parts[0].images), (Part::Train, 20));
    assert!(report.problems[0].contains("test_batch.bin"), "{:?}", report.problems);
    assert!(check(&folder.path().join("none"), CIFAR10).is_err());
}

/// Cut and flipped files: an error or, where the flip is in unchecked pixels, a dataset; never a panic.
#[test]
fn no_bytes_make_the_parquet_reader_panic() {
    // Thousands of tiny files: handing each to other threads would take most of the time.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(read_broken_parquet_files);
}

fn read_broken_parquet_files() {
    let jpeg = fs::read(sample().join("test.parquet")).unwrap();
    let small = parquet("label", &rows(&synthetic(CIFAR10, 4)));
    let mut generator = Draw::Order { epoch: 0 }.generator(1);
    let folder = folder(&[("data_batch_1.bin", &binary(&synthetic(CIFAR10, 1))), ("test.parquet", b"")]);
    let cifar = Cifar::open(folder.path(), CIFAR10).unwrap();
    let path = folder.path().join("test.parquet");
    let load = |bytes: &[u8]| {
        // Removed first: some file systems flush a file that is truncated and written again.
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        cifar.load_test()
    };
    for cut in (0..small.len()).step_by(7) {
        assert!(load(&small[..cut]).is_err(), "cut after {cut} bytes");
    }
    for (bytes, tries) in [(&small, 2000), (&jpeg, 40)] {
        for _ in 0..tries {
            let mut bad = bytes.clone();
            for _ in 0..generator.random_range(1..4) {
                // Half of the flips go to the end, where the metadata is.
                let from = if generator.random() { bytes.len() - 700 } else { 0 };
                bad[generator.random_range(from..bytes.len())] = generator.random();
            }
            let _ = load(&bad);
        }
    }
}

/// `checksums.py` has made the file. Without checksums a flip within an image, or to another class, would not show.
#[test]
fn no_flip_goes_unnoticed_in_pages_with_checksums() {
    let good = include_bytes!("checksums.parquet");
    let expected = load_test(CIFAR10, "test.parquet", good).unwrap();
    assert_eq!(expected.labels(), [3, 8, 8, 0]);
    let mut refused = 0;
    for byte in 0..good.len() {
        let mut bad = good.to_vec();
        bad[byte] ^= 1 << (byte % 8);
        match load_test(CIFAR10, "test.parquet", &bad) {
            Ok(found) => assert!(found == expected, "byte {byte}"),
            Err(error) => {
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
                refused += usize::from(error.to_string().contains("checksum mismatch"));
            }
        }
    }
    assert!(refused > good.len() / 2, "{refused}");
}

/// As above for single images; where the flip leaves a valid JPEG, any pixels will do.
#[test]
fn no_bytes_make_the_image_decoders_panic() {
    let jpeg = include_bytes!("image.jpg").to_vec();
    let png = png(synthetic(CIFAR10, 1).image(0), 32, png::ColorType::Rgb);
    let mut generator = Draw::Order { epoch: 0 }.generator(2);
    let mut planes = vec![0; IMAGE_BYTES];
    for good in [jpeg, png] {
        image::decode(&good, &mut planes).unwrap();
        for cut in 0..good.len() - 16 {
            assert!(image::decode(&good[..cut], &mut planes).is_err(), "cut after {cut} of {} bytes", good.len());
        }
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..generator.random_range(1..4) {
                bad[generator.random_range(0..good.len())] = generator.random();
            }
            let _ = image::decode(&bad, &mut planes);
        }
    }
}

#[test]
fn an_image_file_is_a_regular_one_of_an_images_size() {
    let folder = folder(&[("large.png", &[0x89; (1 << 20) + 1])]);
    assert_malformed(image::read_images(CIFAR10, &[folder.path().join("large.png")]), "large.png", "at most 1048576");
    if cfg!(unix) {
        assert_malformed(image::read_images(CIFAR10, &["/dev/zero".into()]), "/dev/zero", "not a regular file");
    }
}

#[test]
fn the_folder_comes_from_the_flag_then_the_variable_then_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let absent = cache.path().join("absent");
    let [flag, variable] = ["given", "from_variable"].map(PathBuf::from);
    let set = Some(variable.clone());
    assert_eq!(choose(CIFAR10, Some(&flag), set.clone(), cache.path()).unwrap(), flag);
    assert_eq!(choose(CIFAR10, None, set, &absent).unwrap(), variable);
    assert_eq!(choose(CIFAR10, None, None, cache.path()).unwrap(), cache.path());
    assert_eq!(choose(CIFAR10, None, Some(PathBuf::new()), cache.path()).unwrap(), cache.path());
    let error = choose(CIFAR10, None, None, &absent).unwrap_err().to_string();
    assert!(error.contains("sr2-prune data fetch cifar10") && error.contains("--data examples/data"), "{error}");
}
