//! `credplugin`; `docker-credential-clipfs` when called by that name. The library says what it answers, [`cli`] how it is asked.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
