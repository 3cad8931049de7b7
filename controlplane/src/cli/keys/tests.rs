use clap::Parser;

use super::*;
use crate::vault::status::KekStatus;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    kek: KekArgs,
    #[command(subcommand)]
    command: KeysCommand,
}

fn written(report: &KeysReport, json: bool) -> String {
    let mut out = Vec::new();
    report.write(&mut out, json).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn commands_are_understood() {
    let line = Line::try_parse_from(["keys", "--kek-file", "/run/kek", "rotate", "--keep-old"]).unwrap();
    assert_eq!(line.kek.kek_file.as_deref(), Some(Path::new("/run/kek")));
    assert!(matches!(line.command, KeysCommand::Rotate { prepare: false, keep_old: true }));
    for wrong in [
        &["keys", "rotate", "--keep-old", "--prepare"][..],
        &["keys", "rotate-data", "--sweep", "--workspace", "w"],
    ] {
        assert!(Line::try_parse_from(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn reports_are_lines_or_json() {
    let report = KeysReport::Kek(KekReport {
        kek_id: "kek-2".to_owned(),
        rewrapped: 3,
        dropped: vec!["kek-1".to_owned()],
        resumed: true,
    });
    let expected = "went on with a rotation that had not ended\nkey encryption key  kek-2\ndata keys rewrapped 3\ntaken out of file   kek-1\n";
    assert_eq!(written(&report, false), expected);
    assert_eq!(
        written(&report, true),
        "{\"kek_id\":\"kek-2\",\"rewrapped\":3,\"dropped\":[\"kek-1\"],\"resumed\":true}\n"
    );
    let report =
        KeysReport::Data(DataReport { made: 1, resealed: 2, unopened: vec!["s".to_owned()], deleted: 1 });
    assert!(written(&report, false).ends_with("does not open     s\n"));
    let report = KeysReport::Status(KeyStatus {
        key_file: "/run/kek".to_owned(),
        keks: vec![KekStatus { kek_id: "kek-0123456789abcdef".to_owned(), role: "active", data_keys: 7 }],
        data_keys: 7,
        secrets_under_old_keys: 0,
    });
    let text = written(&report, false);
    assert!(text.contains("kek-0123456789abcdef   active           7\n"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&written(&report, true)).unwrap();
    assert_eq!(json["keks"][0]["data_keys"], 7);
}
