//! Which CPUs a thread may run on.

use std::io::{Error, ErrorKind, Result};

/// The CPUs that the calling thread may use.
///
/// # Errors
/// If there are fewer than `least`, and where the system has no such notion.
pub(crate) fn of_this_thread(least: usize) -> Result<Vec<usize>> {
    let cpus = allowed()?;
    if cpus.len() < least {
        let problem = format!("there are {} CPUs to keep {least} threads on, expected one for each", cpus.len());
        return Err(Error::new(ErrorKind::InvalidInput, problem));
    }
    Ok(cpus)
}

#[cfg(target_os = "linux")]
fn allowed() -> Result<Vec<usize>> {
    // SAFETY: a set of bits, all of whose values are valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set has the size given; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) } != 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the set holds so many bits.
    let is_set = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    Ok((0..8 * size_of_val(&set)).filter(is_set).collect())
}

#[cfg(not(target_os = "linux"))]
fn allowed() -> Result<Vec<usize>> {
    Err(Error::new(ErrorKind::Unsupported, "threads can be kept on CPUs on Linux only"))
}

/// Keeps the calling thread on a CPU of [`of_this_thread`]. Should that have gone offline since, it runs where it can.
pub(crate) fn bind_this_thread(cpu: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: a set of bits, to which one below its size is added; 0 is the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = cpu;
}
