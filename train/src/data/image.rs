//! One encoded image to 3x32x32 bytes.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use sr2_formats::Error;

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::pixels::{CHANNELS, IMAGE_BYTES, SIDE};
use super::{Dataset, DatasetKind};

/// More than any image of 32x32 pixels takes.
const MOST_BYTES: u64 = 1 << 20;

/// Memory a PNG decoder may take for one image.
const PNG_MEMORY: usize = 1 << 20;

/// Reads image files (JPEG or PNG, 32x32 RGB) to classify as if they belonged to a dataset; their labels are all 0.
///
/// # Errors
/// If a file cannot be read or is no such image.
pub fn read_images(kind: DatasetKind, paths: &[PathBuf]) -> sr2_formats::Result<Dataset> {
    let mut images = vec![0; paths.len() * IMAGE_BYTES];
    for (path, planes) in paths.iter().zip(images.chunks_exact_mut(IMAGE_BYTES)) {
        let encoded = read(path)?;
        decode(&encoded, planes).map_err(|problem| Error::malformed(path, problem))?;
    }
    Ok(Dataset::new(kind, images, vec![0; paths.len()]))
}

/// The bytes of a regular file; others, such as a pipe or `/dev/zero`, may have no end.
fn read(path: &Path) -> sr2_formats::Result<Vec<u8>> {
    let found = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
    if !found.is_file() {
        return Err(Error::malformed(path, "not a regular file, expected a JPEG or PNG"));
    }
    if found.len() > MOST_BYTES {
        let problem = format!("{} bytes, expected an image of {SIDE}x{SIDE} pixels, at most {MOST_BYTES}", found.len());
        return Err(Error::malformed(path, problem));
    }
    std::fs::read(path).map_err(|e| Error::io(path, "read", e))
}

/// Decodes a JPEG or PNG of 32x32 pixels to `planes`, `[3, 32, 32]`. The error says what was found.
pub(super) fn decode(encoded: &[u8], planes: &mut [u8]) -> Result<(), String> {
    let interleaved = match encoded {
        [0xff, 0xd8, ..] => decode_jpeg(encoded)?,
        [0x89, b'P', b'N', b'G', ..] => decode_png(encoded)?,
        _ => return Err(format!("{} bytes that are neither JPEG nor PNG", encoded.len())),
    };
    if interleaved.len() != IMAGE_BYTES {
        return Err(format!("{} bytes of pixels, expected {IMAGE_BYTES} (32x32 RGB)", interleaved.len()));
    }
    for (channel, plane) in planes.chunks_exact_mut(SIDE * SIDE).enumerate() {
        for (pixel, rgb) in plane.iter_mut().zip(interleaved.chunks_exact(CHANNELS)) {
            *pixel = rgb[channel];
        }
    }
    Ok(())
}

fn decode_jpeg(encoded: &[u8]) -> Result<Vec<u8>, String> {
    // Strict: otherwise the missing end of a cut file would silently be grey.
    let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(encoded), options);
    decoder.decode_headers().map_err(|error| format!("broken JPEG: {error}"))?;
    let (width, height) = decoder.dimensions().ok_or("broken JPEG: no size")?;
    check_size(width, height)?;
    decoder.decode().map_err(|error| format!("broken JPEG: {error}"))
}

fn decode_png(encoded: &[u8]) -> Result<Vec<u8>, String> {
    let broken = |error: png::DecodingError| format!("broken PNG: {error}");
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(encoded), png::Limits { bytes: PNG_MEMORY });
    decoder.set_transformations(png::Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(broken)?;
    check_size(reader.info().width as usize, reader.info().height as usize)?;
    if reader.output_color_type() != (png::ColorType::Rgb, png::BitDepth::Eight) {
        let (color, depth) = reader.output_color_type();
        return Err(format!("PNG of {color:?} with {} bits, expected RGB with 8 bits", depth as u8));
    }
    let mut pixels = vec![0; IMAGE_BYTES];
    reader.next_frame(&mut pixels).map_err(broken)?;
    Ok(pixels)
}

fn check_size(width: usize, height: usize) -> Result<(), String> {
    if (width, height) == (SIDE, SIDE) {
        return Ok(());
    }
    Err(format!("image of {width}x{height} pixels, expected {SIDE}x{SIDE}"))
}
