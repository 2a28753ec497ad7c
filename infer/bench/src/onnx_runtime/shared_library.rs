//! Checks that a file is a whole shared library, before the system's loader maps it: the loader ends the program with
//! a bus error on a file that was cut.

use std::path::Path;

/// Size of an ELF64 header, and of one program header.
const HEADER: usize = 64;
const SEGMENT: usize = 56;

/// What is wrong with the library, if anything: not a regular file, not a library of this system and processor, or
/// shorter than its segments say.
pub(super) fn check(path: &Path) -> Result<(), String> {
    use std::io::Read;
    let mut file = std::fs::File::open(path).map_err(|e| format!("cannot open it: {e}"))?;
    let metadata = file.metadata().map_err(|e| e.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut start = Vec::new();
    file.by_ref().take(1 << 16).read_to_end(&mut start).map_err(|e| format!("cannot read it: {e}"))?;
    if cfg!(target_os = "linux") {
        return check_elf(&start, metadata.len());
    }
    let magic: &[u8] = if cfg!(windows) { b"MZ" } else { &[0xcf, 0xfa, 0xed, 0xfe] };
    if start.starts_with(magic) { Ok(()) } else { Err("it is not a shared library of this system".into()) }
}

/// Checks the header and that each segment of a little-endian ELF64 file lies within its `size` bytes.
fn check_elf(start: &[u8], size: u64) -> Result<(), String> {
    let machine = match std::env::consts::ARCH {
        "x86_64" => Some(62),
        "aarch64" => Some(183),
        _ => None,
    };
    if start.len() < HEADER || !start.starts_with(b"\x7fELF\x02\x01") {
        return Err("it is not a 64-bit ELF file".into());
    }
    let half = |at: usize| u16::from_le_bytes([start[at], start[at + 1]]);
    if half(16) != 3 {
        return Err(format!("its ELF type is {}, expected 3 (shared library)", half(16)));
    }
    if machine.is_some_and(|m| m != half(18)) {
        let arch = std::env::consts::ARCH;
        return Err(format!("its ELF machine is {}, expected {} ({arch})", half(18), machine.unwrap_or_default()));
    }
    let (table, entry, count) = (word(start, 32), half(54) as usize, half(56) as usize);
    let table = usize::try_from(table.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    if entry != SEGMENT || count == 0 {
        return Err(format!("it has {count} ELF segments of {entry} header bytes, expected some of {SEGMENT}"));
    }
    for index in 0..count {
        let at = table.saturating_add(index * SEGMENT);
        let end = word(start, at.saturating_add(8)).zip(word(start, at.saturating_add(32)));
        let end = end.and_then(|(offset, length)| offset.checked_add(length));
        if end.is_none_or(|end| end > size) {
            return Err(format!("it was cut: ELF segment {index} ends after its {size} bytes"));
        }
    }
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().expect("8 bytes")))
}
