//! The `clipfs` binary; also `mount.clipfs` when called by that name.

fn main() -> std::process::ExitCode {
    clipfs::cli::main()
}
