//! The engine for C: load once, run many. `include/sr2_infer.h` is made from this file.
//!
//! `unsafe` stands here for what no Rust type can prove: that a caller's pointers are what the header asks for.

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use sr2_infer::{Engine, Error, Model, Options, Scratch};

/// A network ready to run. One thread may use it at a time.
#[allow(non_camel_case_types, reason = "a C name")]
#[derive(Debug)]
pub struct sr2_engine(Engine, Scratch);

/// Loads a `.onnx`, `.srz` or `.csr.safetensors` file, a checkpoint, or an export folder, to run on `threads` threads, the
/// caller's included, at most 1024, with batches of about `batch` images, at most 4096. Returns NULL on failure, and then
/// writes why into `error`.
///
/// # Safety
/// `path` must be a C string in UTF-8; `error` must be NULL, or point to `error_len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sr2_engine_load(
    path: *const c_char,
    threads: usize,
    batch: usize,
    error: *mut c_char,
    error_len: usize,
) -> *mut sr2_engine {
    let load = || {
        if path.is_null() {
            return Err("path is NULL".to_string());
        }
        // SAFETY: the caller's promise.
        let path = unsafe { CStr::from_ptr(path) }.to_str().map_err(|_| "path is not UTF-8".to_string())?;
        engine(path, &Options { threads, batch, ..Default::default() }).map_err(|e| e.to_string())
    };
    match guarded(load) {
        Ok(engine) => Box::into_raw(Box::new(engine)),
        Err(problem) => {
            // SAFETY: the caller's promise.
            unsafe { write_error(&problem, error, error_len) };
            std::ptr::null_mut()
        }
    }
}

/// Number of values of one image, channels first.
///
/// # Safety
/// `engine` must come from `sr2_engine_load` and not be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sr2_engine_input_len(engine: *const sr2_engine) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*engine }.0.input_shape().iter().product()
}

/// Number of values answered for one image.
///
/// # Safety
/// As `sr2_engine_input_len`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sr2_engine_output_len(engine: *const sr2_engine) -> usize {
    // SAFETY: the caller's promise.
    unsafe { &*engine }.0.output_shape().iter().product()
}

/// Writes channels, height and width of one image into `shape`.
///
/// # Safety
/// As `sr2_engine_input_len`; `shape` must point to three writable values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sr2_engine_input_shape(engine: *const sr2_engine, shape: *mut usize) {
    // SAFETY: the caller's promise; every network's input has three dimensions.
    unsafe { std::ptr::copy_nonoverlapping((*engine).0.input_shape().as_ptr(), shape, 3) }
}

/// Computes the outputs of `count` images, any number whatever the engine was loaded for. Returns 0, or 1 on failure,
/// and then writes why into `error`.
///
/// # Safety
/// As `sr2_engine_input_len`, and no other thread may use the engine; `images` must point to `count` times
/// `sr2_engine_input_len` values and `outputs` to `count` times `sr2_engine_output_len` writable ones, apart from each
/// other; `error` must be NULL, or point to `error_len` writable bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sr2_engine_run(
    engine: *mut sr2_engine,
    images: *const f32,
    count: usize,
    outputs: *mut f32,
    error: *mut c_char,
    error_len: usize,
) -> i32 {
    let run = || {
        if engine.is_null() || images.is_null() || outputs.is_null() {
            return Err("engine, images or outputs is NULL".to_string());
        }
        // SAFETY: the caller's promise.
        let (sr2_engine(engine, scratch), images, outputs) = unsafe {
            let (input, output) = (sr2_engine_input_len(engine), sr2_engine_output_len(engine));
            let images = std::slice::from_raw_parts(images, count * input);
            (&mut *engine, images, std::slice::from_raw_parts_mut(outputs, count * output))
        };
        engine.run(images, outputs, scratch).map_err(|e| e.to_string())
    };
    match guarded(run) {
        Ok(()) => 0,
        Err(problem) => {
            // SAFETY: the caller's promise.
            unsafe { write_error(&problem, error, error_len) };
            1
        }
    }
}

/// Frees an engine; NULL is left alone.
///
/// # Safety
/// `engine` must be NULL, or come from `sr2_engine_load` and not be freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sr2_engine_free(engine: *mut sr2_engine) {
    if !engine.is_null() {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(engine) });
    }
}

fn engine(path: &str, options: &Options) -> Result<sr2_engine, Error> {
    let engine = Model::load(path)?.plan(options)?;
    let scratch = engine.scratch()?;
    Ok(sr2_engine(engine, scratch))
}

/// A panic must not pass into C.
fn guarded<T>(call: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|_| Err("a bug in the engine; see standard error".into()))
}

/// Writes what fits of a message, and its terminator.
///
/// # Safety
/// `error` must be NULL, or point to `len` writable bytes.
unsafe fn write_error(problem: &str, error: *mut c_char, len: usize) {
    if error.is_null() || len == 0 {
        return;
    }
    let kept = problem.len().min(len - 1);
    // SAFETY: the caller's promise; `kept` leaves a byte for the terminator.
    unsafe {
        std::ptr::copy_nonoverlapping(problem.as_ptr().cast(), error, kept);
        *error.add(kept) = 0;
    }
}
