//! ONNX Runtime 1.29 and newer write an identifier to disk and report to their vendor from the moment they are
//! initialised. A variable of the process's environment, read at that moment, is the only full way out.

use std::ffi::OsStr;
use std::process::{Command, ExitCode};

pub(crate) const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// Whether ONNX Runtime's telemetry is off in this process.
pub fn telemetry_is_off() -> bool {
    std::env::var_os(VARIABLE).as_deref() == Some(OsStr::new("1"))
}

/// Starts this program anew, with the same arguments and ONNX Runtime's telemetry off, and gives its exit code; `None`
/// if telemetry is off already. On Unix the new program replaces this one, so a `Some` is never seen there.
///
/// To call before any output. It is not done by changing this process's environment: that is a data race with threads.
pub fn restart_without_telemetry() -> std::io::Result<Option<ExitCode>> {
    if telemetry_is_off() {
        return Ok(None);
    }
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(VARIABLE, "1");
    #[cfg(unix)]
    {
        Err(std::os::unix::process::CommandExt::exec(&mut command))
    }
    #[cfg(not(unix))]
    {
        let code = command.status()?.code().and_then(|code| u8::try_from(code).ok());
        Ok(Some(code.map_or(ExitCode::FAILURE, ExitCode::from)))
    }
}
