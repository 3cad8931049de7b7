//! Writes what is ours: the document in one write, sentences for people beside it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use credplugin::{Code, Error};

/// Writes to standard output, past the standard library's buffer, which is never wiped. A reader that is gone is an error, not a signal.
pub(super) fn write(bytes: &[u8]) -> io::Result<()> {
    let stdout = io::stdout();
    let mut file = File::from(stdout.as_fd().try_clone_to_owned()?);
    file.write_all(bytes)
}

/// A text for people, on standard error. What is wrong there cannot be told anywhere.
pub(super) fn complain(text: &str) {
    let text = printable(text);
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = io::stderr().write_all(format!("{text}{end}").as_bytes());
}

/// The sentence of an error, and what there is to do.
pub(super) fn report(error: &Error) {
    complain(&format!("credplugin: {error}"));
    if let Some(hint) = hint(error) {
        complain(&format!("hint: {hint}"));
    }
}

/// Without what a terminal would act upon: names in messages are foreign.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

fn hint(error: &Error) -> Option<String> {
    Some(match error.code {
        Code::Usage => "see credplugin --help".into(),
        Code::NotFound => {
            "credentials go to the registry that they name and to no other: pull from there, or send others"
                .into()
        }
        Code::Unavailable => {
            "check the network; another endpoint is set under [endpoints] in the configuration".into()
        }
        Code::TryLater => match error.retry_after {
            Some(wait) => format!("ask again in {} s", wait.as_secs().max(1)),
            None => "ask again later".into(),
        },
        Code::Denied => {
            "the request's credentials are wrong, expired or revoked: send a request with newer ones".into()
        }
        Code::Internal => "this is a bug of credplugin: please report it".into(),
        // The sentence names the path and says what is wrong there.
        Code::BadRequest => return None,
    })
}
