//! What an image's config and a request say together: program, environment, directory, user, signal. Pure.

use serde::Deserialize;

use super::RuntimeError;
use super::job::ContainerRequestView;

/// PATH where neither image nor request has one.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The `config` object of an image's config, as far as it is about running.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Settings {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

/// What is run.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: String,
    /// `user[:group]`, names or numbers; empty = root.
    pub(super) user: String,
    /// Number, or number relative to the first real-time signal.
    pub(super) stop_signal: String,
}

impl Settings {
    /// From an image's config document.
    pub(super) fn parse(config: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Document {
            config: Option<Settings>,
        }
        let document: Document =
            serde_json::from_slice(config).map_err(|e| format!("its config is malformed: {e}"))?;
        Ok(document.config.unwrap_or_default())
    }

    /// Joins them.
    pub(super) fn process(
        self,
        image: &str,
        request: &ContainerRequestView,
    ) -> Result<Process, RuntimeError> {
        let refuse = |reason: String| RuntimeError::Image { image: image.to_owned(), reason };
        let args = if request.entry_point.is_empty() {
            let mut args = self.entrypoint.unwrap_or_default();
            args.extend(self.cmd.unwrap_or_default());
            args
        } else {
            request.entry_point.clone()
        };
        let Some(program) = args.first() else {
            return Err(refuse(
                "it has neither ENTRYPOINT nor CMD, and the request has no entry_point".into(),
            ));
        };
        if program.is_empty() {
            return Err(refuse("the name of the program is empty".into()));
        }
        if args.iter().any(|arg| arg.contains('\0')) {
            return Err(refuse("an argument has a NUL in it".into()));
        }
        let cwd = match self.working_dir.as_deref() {
            None | Some("") => "/".to_owned(),
            Some(dir) if dir.starts_with('/') => dir.to_owned(),
            Some(dir) => format!("/{dir}"),
        };
        if cwd.contains('\0') || cwd.split('/').any(|part| part == "..") {
            return Err(refuse(format!("its working directory {cwd:?} is none")));
        }
        let user = self.user.unwrap_or_default();
        Ok(Process {
            args,
            env: environment(self.env.unwrap_or_default(), &request.env)?,
            cwd,
            user,
            stop_signal: stop_signal(self.stop_signal.as_deref().unwrap_or_default()).map_err(refuse)?,
        })
    }
}

/// The image's variables, over them the request's, each name once.
fn environment(image: Vec<String>, request: &[String]) -> Result<Vec<String>, RuntimeError> {
    let refuse = |reason: &str| {
        // The value may be secret, and so may be what has no name.
        Err(RuntimeError::Request { field: "env", reason: reason.to_owned() })
    };
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned()];
    // An image's variable without a value is no variable, as with other runtimes.
    let image = image.into_iter().filter(|variable| name(variable).is_some() && !variable.contains('\0'));
    for variable in image {
        set(&mut env, variable);
    }
    for variable in request {
        if name(variable).is_none() {
            return refuse("a variable is not of the form NAME=value");
        }
        if variable.contains('\0') {
            return refuse("a variable has a NUL in it");
        }
        set(&mut env, variable.clone());
    }
    Ok(env)
}

fn set(env: &mut Vec<String>, variable: String) {
    match env.iter_mut().find(|known| name(known) == name(&variable)) {
        Some(known) => *known = variable,
        None => env.push(variable),
    }
}

/// The name in `NAME=value`.
pub(super) fn name(variable: &str) -> Option<&str> {
    variable.split_once('=').map(|(name, _)| name).filter(|name| !name.is_empty())
}

/// A signal as runtimes take it: its number. `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`; empty = SIGTERM.
fn stop_signal(text: &str) -> Result<String, String> {
    use nix::sys::signal::Signal;
    let refuse = || Err(format!("its STOPSIGNAL {text:?} is none"));
    if text.is_empty() {
        return Ok((Signal::SIGTERM as i32).to_string());
    }
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=libc::SIGRTMAX()).contains(&number) { Ok(number.to_string()) } else { refuse() };
    }
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(signal) = format!("SIG{bare}").parse::<Signal>() {
        return Ok((signal as i32).to_string());
    }
    // The C library keeps the first two for itself: its SIGRTMIN is what everybody means.
    let (start, limit) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let number = match bare.split_at_checked("RTMIN".len()) {
        Some(("RTMIN", "")) => Some(start),
        Some(("RTMIN", rest)) => {
            rest.strip_prefix('+').and_then(|n| n.parse::<i32>().ok()).and_then(|n| start.checked_add(n))
        }
        Some(("RTMAX", "")) => Some(limit),
        Some(("RTMAX", rest)) => {
            rest.strip_prefix('-').and_then(|n| n.parse::<i32>().ok()).and_then(|n| limit.checked_sub(n))
        }
        _ => None,
    };
    match number {
        Some(number) if (start..=limit).contains(&number) => Ok(number.to_string()),
        _ => refuse(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(config: serde_json::Value) -> Settings {
        Settings::parse(serde_json::json!({ "config": config }).to_string().as_bytes()).unwrap()
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    #[test]
    fn the_requests_entry_point_replaces_both_of_the_image() {
        let image = || settings(serde_json::json!({ "Entrypoint": ["/e", "x"], "Cmd": ["c"] }));
        let none = ContainerRequestView::default();
        assert_eq!(image().process("i", &none).unwrap().args, ["/e", "x", "c"]);
        let asked = ContainerRequestView { entry_point: strings(&["/mine"]), ..none.clone() };
        assert_eq!(image().process("i", &asked).unwrap().args, ["/mine"]);
        let only_cmd = settings(serde_json::json!({ "Cmd": ["c"], "Entrypoint": null }));
        assert_eq!(only_cmd.process("i", &none).unwrap().args, ["c"]);
        let error = Settings::default().process("app", &none).unwrap_err();
        assert_eq!(error.code(), 3, "{error}");
        assert!(error.to_string().contains("ENTRYPOINT"), "{error}");
    }

    #[test]
    fn variables_of_the_request_win_and_names_are_unique() {
        let image = settings(serde_json::json!({ "Cmd": ["c"], "Env": ["A=1", "B=2", "A=3", "broken"] }));
        let request = ContainerRequestView { env: strings(&["B=x=y", "C="]), ..Default::default() };
        let env = image.process("i", &request).unwrap().env;
        assert_eq!(env, [DEFAULT_PATH, "A=3", "B=x=y", "C="]);
        for bad in ["pl4nted", "=pl4nted", "A=pl4nted\0"] {
            let error = environment(Vec::new(), &strings(&[bad])).unwrap_err();
            assert_eq!(error.code(), 3);
            assert!(!error.to_string().contains("pl4nted"), "{error}");
        }
    }

    #[test]
    fn directories_are_absolute_and_lead_nowhere_else() {
        let cwd = |dir: &str| {
            let image = settings(serde_json::json!({ "Cmd": ["c"], "WorkingDir": dir }));
            image.process("i", &ContainerRequestView::default()).map(|process| process.cwd)
        };
        assert_eq!(cwd("").unwrap(), "/");
        assert_eq!(cwd("app").unwrap(), "/app");
        assert_eq!(cwd("/a/b").unwrap(), "/a/b");
        assert_eq!(cwd("/a/../../etc").unwrap_err().code(), 3);
    }

    #[test]
    fn signals_have_many_names() {
        for (text, number) in [
            ("", "15"),
            ("SIGTERM", "15"),
            ("quit", "3"),
            ("9", "9"),
            ("SIGRTMIN+3", "37"),
            ("RTMAX-1", "63"),
        ] {
            assert_eq!(stop_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["0", "65", "-1", "SIGNOTHING", "RTMIN+99", "RTMIN-1", "SIGRTMAX+1", "é"] {
            assert!(stop_signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn configs_that_are_none_are_refused() {
        assert!(Settings::parse(b"{").is_err());
        assert!(Settings::parse(br#"{"config":{"Env":5}}"#).is_err());
        assert_eq!(Settings::parse(b"{}").unwrap(), Settings::default());
    }
}
