use clap::CommandFactory as _;

use super::*;

fn settings(line: &str) -> Layer {
    let args = Args::try_parse_from(line.split(' ')).expect(line);
    args.command.settings(&args.global)
}

#[test]
fn the_definition_is_sound_and_every_command_has_an_example() {
    fn check(command: &clap::Command) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example"), "{}", command.get_name());
        let examples: Vec<_> = help.lines().filter_map(|line| line.strip_prefix("  clipfs ")).collect();
        assert!(!examples.is_empty(), "{}", command.get_name());
        for example in examples {
            // An example that the parser refuses is worse than none.
            let line = format!("clipfs {example}");
            if let Err(error) = Args::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
        command.get_subcommands().for_each(check);
    }
    Args::command().debug_assert();
    check(&Args::command());
}

#[test]
fn flags_become_settings() {
    let layer = settings(
        "clipfs mount --cache-dir /c --cache-size 1GiB --memory 64MiB --read-timeout 5s --mount-timeout 7s \
         --prefetch none --passthrough off --metrics 127.0.0.1:9 --plain-http --hosts-dir /h a /m",
    );
    assert_eq!(layer.cache_dir, Some("/c".into()));
    assert_eq!(layer.cache_size, Some(ByteSize(1 << 30)));
    assert_eq!(layer.memory, Some(ByteSize(64 << 20)));
    assert_eq!(layer.read_timeout, Some("5s".parse().unwrap()));
    assert_eq!(layer.mount_timeout, Some("7s".parse().unwrap()));
    assert_eq!((layer.prefetch, layer.passthrough), (Some(Prefetch::None), Some(Passthrough::Off)));
    assert_eq!(layer.metrics, Some("127.0.0.1:9".parse().unwrap()));
    assert_eq!((layer.plain_http, layer.hosts_dir), (Some(true), Some("/h".into())));

    for command in ["mount a /m", "index a", "ls a", "cat a /f", "stat a /f", "inspect a", "verify a.clip"] {
        let line = format!(
            "clipfs {command} --request r.json --credential-plugin docker:helper --credential-plugin-env A,B"
        );
        let args = Args::try_parse_from(line.split(' ')).expect(&line);
        let source = args.command.source().expect(&line);
        assert_eq!(source.request.as_deref(), Some(std::path::Path::new("r.json")), "{line}");
        let layer = args.command.settings(&args.global);
        assert_eq!(layer.credential_plugin, Some(PluginSpec::Docker("helper".into())), "{line}");
        assert_eq!(layer.credential_plugin_env, Some(vec!["A".into(), "B".into()]), "{line}");
    }

    let layer = settings("clipfs index --chunk 1MiB --log-level debug --log-format json a");
    assert_eq!(layer.chunk_size, Some(ByteSize(1 << 20)));
    assert_eq!((layer.log_level, layer.log_format), (Some("debug".into()), Some(LogFormat::Json)));
    assert_eq!(layer.plain_http, None, "an absent flag says nothing");
}

#[test]
fn refuses_what_makes_no_sense() {
    for line in [
        "clipfs",
        "clipfs frobnicate",
        "clipfs index",
        "clipfs index --chunk lots a",
        "clipfs mount a",
        "clipfs mount --passthrough perhaps a /m",
        "clipfs mount --request",
        "clipfs mount --credential-plugin helm:/p a /m",
        "clipfs mount --credential-plugin docker: a /m",
        "clipfs umount --request r.json /m",
        "clipfs mount --index i.clip --image a a.clip /m",
        "clipfs ls --platform // a",
        "clipfs cache",
    ] {
        assert!(Args::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}
