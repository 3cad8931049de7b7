//! `check`: what a request carries, for people at three in the morning. Names of keys, never values.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Instant;

use credplugin::kind::key_names;
use credplugin::protocol::{self, clipfs};
use credplugin::{Error, Scheme, parse_credentials};
use secrecy::ExposeSecret;

use super::get::{self, Question};
use super::{Target, input, output, report, written};

pub(super) fn main(target: &Target, exchange: bool, deadline: Instant) -> ExitCode {
    match run(target, exchange, deadline) {
        Ok(text) => written(output::write(output::printable(&text).as_bytes())),
        Err(error) => {
            report(&error);
            error.code.exit_code().into()
        }
    }
}

fn run(target: &Target, exchange: bool, deadline: Instant) -> Result<String, Error> {
    let bytes = input::stdin(clipfs::MAX_REQUEST, deadline)?;
    let question = Question::of(protocol::recognise(&bytes)?, &bytes, target)?;
    let registry = &question.ask.registry;
    let mut text = format!("registry: {registry}\n");
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name}: {value}");
    };
    let mut exchange = exchange;
    match parse_credentials(question.request.image_credentials.expose_secret())? {
        None => line("image_credentials", "none"),
        Some(credentials) => {
            let kind = question.kind()?;
            line("image_credentials", &format!("{kind:?}").to_lowercase());
            line("for", credentials.registry.as_deref().unwrap_or("the registry of the image"));
            line("keys", &key_names(&credentials.credentials));
            // What needs no exchange is answered here and now.
            exchange |= !get::needs_exchange(kind);
        }
    }
    if !question.request.build_registry_credentials.expose_secret().is_empty() {
        line("build_registry_credentials", "present");
    }
    if exchange {
        let answer = question.answer(deadline)?;
        let scheme = match answer.scheme {
            Scheme::None => "anonymous",
            Scheme::Basic { .. } => "a user name and a password",
            Scheme::Bearer { .. } => "a registry token",
            Scheme::RefreshToken { .. } => "a refresh token",
        };
        line("answer", scheme);
        if let Some(life) = answer.valid_for {
            line("valid for", &format!("{} s", life.as_secs()));
        }
    }
    Ok(text)
}
