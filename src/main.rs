//! Entry of the `twinfs` program: the name it was called by and its arguments choose a verb; the answer is the exit
//! code.
#![allow(clippy::disallowed_methods, reason = "the program's arguments enter here")]

fn main() -> std::process::ExitCode {
    twinfs::cli::main(std::env::args_os())
}
