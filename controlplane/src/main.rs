//! `controlplane`: see [`controlplane::cli`].

fn main() -> std::process::ExitCode {
    controlplane::cli::main()
}
