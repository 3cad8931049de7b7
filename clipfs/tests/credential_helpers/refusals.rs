//! Docker helpers that fail, by scripts: what they say is never repeated.

use clipfs::credentials::{CredentialProvider as _, CredentialRequest, docker::DockerHelper};

use crate::support::{ask, logged, script};

#[test]
fn what_helpers_say_is_not_repeated() {
    let table = [
        (
            r#"[ "$*" = get ] || exit 9; [ "$(cat; echo .)" = r.example.com:5000. ] || exit 8; echo '{"Username":"u","Secret":"p"}'"#,
            "u|p",
            "",
        ),
        ("echo credentials not found in native keychain; exit 1", "NotFound: ", "r.example.com:5000"),
        ("echo no credentials username; exit 1", "NotFound: ", "user name"),
        ("echo no credentials server URL; exit 1", "Broken: ", "server"),
        ("cat; echo pl4nted-words; exit 1", "Broken: ", "exit code 1"),
        ("echo pl4nted-words >&2; exit 3", "Broken: ", "exit code 3"),
        ("echo '{\"Username\":\"u\",\"Secret\":\"pl4nted-1\"}'; exit 2", "Broken: ", "exit code 2"),
        ("echo pl4nted-words", "Broken: ", "expected a value"),
        (
            "echo '{\"ServerURL\":\"s.example.com\",\"Username\":\"u\",\"Secret\":\"pl4nted-1\"}'",
            "Refused: ",
            "another registry",
        ),
        ("yes pl4nted-words", "Broken: ", "64 KiB"),
        ("kill -SEGV $$", "Broken: ", "SIGSEGV"),
        ("exec /nonexistent", "Configuration: ", "127"),
    ];
    for (body, start, part) in table {
        let dir = tempfile::tempdir().unwrap();
        let helper = DockerHelper::open(&script(dir.path(), "helper", body), &[]).unwrap();
        logged(async {
            let said = ask(&helper, "r.example.com:5000", "").await;
            assert!(said.starts_with(start) && said.contains(part), "{body}: {said}");
        });
    }
}

/// Dropped while it runs: nothing is left of it, and the next ask works.
#[test]
fn an_ask_can_be_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("slow");
    std::fs::write(&mark, "").unwrap();
    let body =
        format!("[ ! -e {0} ] || sleep 600\necho '{{\"Username\":\"u\",\"Secret\":\"p\"}}'", mark.display());
    let helper = DockerHelper::open(&script(dir.path(), "helper", &body), &[]).unwrap();
    let request =
        CredentialRequest { registry: "r.example.com".into(), image: String::new(), scope: String::new() };
    logged(async {
        let given_up =
            tokio::time::timeout(std::time::Duration::from_millis(200), helper.credential(&request)).await;
        assert!(given_up.is_err());
        std::fs::remove_file(&mark).unwrap();
        assert_eq!(ask(&helper, "r.example.com", "").await, "u|p");
    });
}
