//! The `twinblock` command. Everything is in the library; see [`twinblock::runtime::cli`].

fn main() -> std::process::ExitCode {
    twinblock::runtime::cli::main()
}
