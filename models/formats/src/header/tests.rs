use proptest::prelude::*;
use safetensors::SafeTensors;

use super::*;

/// A file of this header and `data_len` zeros, for the `safetensors` crate.
fn file(json: &str, data_len: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data_len, 0);
    bytes
}

fn entry(name: &str, dtype: &str, shape: &[usize], start: usize, stop: usize) -> String {
    format!(r#"{name:?}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{stop}]}}"#)
}

fn map(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

#[track_caller]
fn assert_refused(json: &str, data_len: u64, problem: &str) {
    let found = Header::parse(json.as_bytes(), data_len).unwrap_err();
    assert!(found.contains(problem), "{found}");
}

#[test]
fn tensors_come_in_the_order_of_their_bytes() {
    let json = map(&[entry("b", "F32", &[1], 4, 8), entry("a", "F32", &[], 0, 4), entry("e", "I64", &[2, 0], 8, 8)]);
    let header = Header::parse(json.as_bytes(), 8).unwrap();
    let names: Vec<_> = header.tensors.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b", "e"]);
}

#[test]
fn not_json() {
    assert_refused("", 0, "does not start with '{'");
    assert_refused(" {}", 0, "does not start with '{'");
    assert_refused("{", 0, "header is invalid: EOF");
    assert_refused("{} x", 0, "header is invalid: trailing characters");
    assert_refused(&"{\"a\":".repeat(1000), 0, "header is invalid: tensor \"a\"");
}

#[test]
fn unknown_type() {
    assert_refused(&map(&[entry("a", "Q8", &[1], 0, 1)]), 1, "tensor \"a\": unknown variant `Q8`");
}

#[test]
fn negative_dimension() {
    let json = r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#;
    assert_refused(json, 4, "tensor \"a\": invalid value: integer `-1`");
}

#[test]
fn duplicate_name() {
    let json = map(&[entry("a", "F32", &[1], 0, 4), entry("a", "F32", &[1], 4, 8)]);
    assert_refused(&json, 8, "name \"a\" appears twice");
    assert!(SafeTensors::deserialize(&file(&json, 4)).is_err() || SafeTensors::deserialize(&file(&json, 8)).is_err());
}

#[test]
fn duplicate_metadata() {
    assert_refused(r#"{"__metadata__":{},"__metadata__":{}}"#, 0, "name \"__metadata__\" appears twice");
    assert_refused(r#"{"__metadata__":{"a":"1","a":"2"}}"#, 0, "metadata key \"a\" appears twice");
}

#[test]
fn metadata_not_strings() {
    assert_refused(r#"{"__metadata__":{"a":1}}"#, 0, "expected a string");
}

#[test]
fn long_name() {
    assert_refused(&map(&[entry(&"n".repeat(257), "F32", &[1], 0, 4)]), 4, "a name has 257 bytes, at most 256");
    assert!(Header::parse(map(&[entry(&"n".repeat(256), "F32", &[1], 0, 4)]).as_bytes(), 4).is_ok());
}

#[test]
fn too_many_tensors() {
    let entries: Vec<_> = (0..=MAX_TENSORS).map(|i| entry(&i.to_string(), "F32", &[0], 0, 0)).collect();
    assert_refused(&map(&entries), 0, "more than 65536 tensors");
    assert!(Header::parse(map(&entries[1..]).as_bytes(), 0).is_ok());
}

#[test]
fn rank_above_8() {
    assert_refused(&map(&[entry("a", "U8", &[1; 9], 0, 1)]), 1, "tensor \"a\" has 9 dimensions, at most 8");
}

#[test]
fn size_overflows() {
    assert_refused(&map(&[entry("a", "U8", &[usize::MAX, 2], 0, 1)]), 1, "whose size overflows");
    assert_refused(&map(&[entry("a", "F32", &[usize::MAX / 8], 0, 1)]), 1, "whose size overflows");
}

#[test]
fn size_of_part_of_a_byte() {
    assert_refused(&map(&[entry("a", "F4", &[3], 0, 1)]), 1, "does not end at a byte");
}

#[test]
fn hole() {
    let json = map(&[entry("a", "F32", &[1], 0, 4), entry("b", "F32", &[1], 8, 12)]);
    assert_refused(&json, 12, "tensor \"b\" starts at data byte 8, expected 4");
    assert_refused(&map(&[entry("a", "F32", &[1], 4, 8)]), 8, "tensor \"a\" starts at data byte 4, expected 0");
}

#[test]
fn overlap() {
    let json = map(&[entry("a", "F32", &[2], 0, 8), entry("b", "F32", &[2], 4, 12)]);
    assert_refused(&json, 12, "tensor \"b\" starts at data byte 4, expected 8");
}

#[test]
fn wrong_size() {
    let problem = "tensor \"a\" spans data bytes 0 to 4, but F32 [2] takes 8 bytes";
    assert_refused(&map(&[entry("a", "F32", &[2], 0, 4)]), 4, problem);
}

#[test]
fn backward() {
    let json = map(&[entry("a", "F32", &[1], 0, 4), entry("b", "F32", &[1], 4, 0)]);
    assert_refused(&json, 4, "tensor \"b\" spans data bytes 4 to 0");
}

#[test]
fn trailing_or_missing_bytes() {
    let json = map(&[entry("a", "F32", &[1], 0, 4)]);
    assert_refused(&json, 5, "holds 5 bytes of data, but its tensors take 4");
    assert_refused(&json, 3, "holds 3 bytes of data, but its tensors take 4");
}

#[test]
fn offsets_near_overflow() {
    // Adding the header's length to such an offset must not wrap.
    let json = map(&[entry("a", "U8", &[usize::MAX / 8], 0, usize::MAX / 8)]);
    assert_refused(&json, 0, "holds 0 bytes of data, but its tensors take");
}

/// Headers of up to 4 tensors with small shapes and offsets that are often, but not always, right.
fn headers() -> impl Strategy<Value = (String, usize)> {
    let dtype = prop::sample::select(vec![("F32", 4), ("F16", 2), ("I64", 8), ("U8", 1)]);
    let tensor = (dtype, prop::collection::vec(0usize..4, 0..3), prop_oneof![9 => Just(0usize), 1 => 0usize..3]);
    (prop::collection::vec(tensor, 0..5), prop_oneof![9 => Just(0usize), 1 => 0usize..3]).prop_map(
        |(tensors, extra)| {
            let mut end = 0;
            let mut entries = Vec::new();
            for (i, ((dtype, size), shape, slip)) in tensors.into_iter().enumerate() {
                let start = end + slip;
                end = start + shape.iter().product::<usize>() * size;
                entries.push(entry(&format!("t{}", i % 4), dtype, &shape, start, end));
            }
            (map(&entries), end + extra)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..Default::default() })]

    /// What is accepted here, the crate accepts too; what only the crate accepts has a duplicate name.
    #[test]
    fn agrees_with_the_safetensors_crate((json, data_len) in headers()) {
        let ours = Header::parse(json.as_bytes(), data_len as u64);
        let theirs = SafeTensors::deserialize(&file(&json, data_len)).is_ok();
        match ours {
            Ok(header) => {
                prop_assert!(theirs, "{json}");
                let encoded = header.encode();
                let again = Header::parse(&encoded, data_len as u64).unwrap();
                prop_assert_eq!(encoded.len() % 8, 0);
                prop_assert_eq!(format!("{again:?}"), format!("{header:?}"));
            }
            Err(problem) => prop_assert!(!theirs || problem.contains("twice"), "{problem}: {json}"),
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, data_len: u64) {
        let _ = Header::parse(&bytes, data_len);
        let _ = Header::parse(&[b"{", bytes.as_slice()].concat(), data_len);
    }

    #[test]
    fn a_changed_byte_never_panics((json, data_len) in headers(), position: prop::sample::Index, byte: u8) {
        let mut json = json.into_bytes();
        let position = position.index(json.len());
        json[position] = byte;
        let _ = Header::parse(&json, data_len as u64);
    }
}
