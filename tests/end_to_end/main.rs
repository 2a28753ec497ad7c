//! The program as its users run it: the stages one after the other, what they refuse and how, and signals.

mod bad_files;
mod bench;
mod disk;
mod exit_codes;
mod help;
mod pipeline;
mod program;
mod report;
mod sample;
mod signals;
mod sweep;
mod verify;
