use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

use super::super::envelope::Key;
use super::*;

fn file(directory: &Path, mode: u32) -> PathBuf {
    let path = directory.join("keys");
    std::fs::write(&path, Keks::only(Key::generate()).to_text().as_bytes()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn why(result: Result<Keyring, VaultError>) -> String {
    match result.unwrap_err() {
        VaultError::KeyFile(why) => why,
        error => panic!("{error}"),
    }
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o600, 0o400, 0o700] {
        assert!(Keyring::open(&file(directory.path(), mode)).is_ok(), "{mode:o}");
    }
    for mode in [0o640, 0o604, 0o620, 0o602, 0o644, 0o601] {
        let error = why(Keyring::open(&file(directory.path(), mode)));
        assert!(error.contains("others may read or write it") && error.contains("chmod 600"), "{error}");
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), 0o600);
    if chown(&path, Some(65_534), None).is_err() {
        return; // Only root may give files away, and only root could read it then.
    }
    assert!(why(Keyring::open(&path)).contains("belongs to user 65534"));
}

#[test]
fn what_is_no_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(why(Keyring::open(directory.path())).contains("neither a file nor a pipe"));
    assert!(why(Keyring::open(Path::new("/dev/zero"))).contains("neither a file nor a pipe"));
    assert!(why(Keyring::open(&directory.path().join("none"))).contains("No such file"));
    let path = file(directory.path(), 0o600);
    std::fs::write(&path, vec![b'#'; 70_000]).unwrap();
    assert!(why(Keyring::open(&path)).contains("longer than"));
}

#[tokio::test]
async fn a_link_is_followed_and_what_it_points_to_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), 0o600);
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    let keyring = Keyring::open(&link).unwrap();
    let held = keyring.hold(true).await.unwrap();
    held.replace(held.keks().with_next(Key::generate())).await.unwrap();
    drop(held);
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert!(Keyring::open(&path).unwrap().keks().next().is_some());
}

#[tokio::test]
async fn an_inherited_pipe_gives_its_keys_once() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(Keks::only(Key::generate()).to_text().as_bytes()).unwrap();
    drop(writer);
    let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
    let keyring = Keyring::open(&path).unwrap();
    let kek_id = keyring.keks().active().kek_id.clone();
    assert!(matches!(keyring.find("kek-other").await, Err(VaultError::NoKek(_))));
    assert_eq!(keyring.find(&kek_id).await.unwrap().kek_id, kek_id);
    assert_eq!(keyring.hold(false).await.unwrap().keks().active().kek_id, kek_id);
    assert!(
        matches!(keyring.hold(true).await, Err(VaultError::KeyFile(why)) if why.contains("rotated in a file"))
    );
}

#[tokio::test]
async fn an_inherited_file_is_read_and_not_rotated() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), 0o600);
    let open = std::fs::File::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let keyring = Keyring::open(Path::new(&format!("/proc/self/fd/{}", open.as_raw_fd()))).unwrap();
    assert!(keyring.find("kek-other").await.is_err(), "it is read again and holds what it held");
    assert!(keyring.hold(true).await.is_err());
    assert!(keyring.hold(false).await.is_ok());
}

#[test]
fn the_first_start_makes_a_key_and_later_ones_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let made = Keyring::open_or_generate(directory.path(), false).unwrap();
    let path = directory.path().join(GENERATED);
    assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
    let again = Keyring::open_or_generate(directory.path(), false).unwrap();
    assert_eq!(made.keks().active().kek_id, again.keks().active().kek_id);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing else is left");
    std::fs::remove_file(&path).unwrap();
    let error = why(Keyring::open_or_generate(directory.path(), true));
    assert!(error.contains("missing") && error.contains("--kek-file"), "{error}");
    assert!(!path.exists());
}

#[test]
fn first_starts_at_once_agree() {
    let directory = tempfile::tempdir().unwrap();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let start =
            || Keyring::open_or_generate(directory.path(), false).unwrap().keks().active().kek_id.clone();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
}

#[tokio::test]
async fn keys_of_a_file_that_broke_stay_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(directory.path(), 0o600);
    let keyring = Keyring::open(&path).unwrap();
    let kek_id = keyring.keks().active().kek_id.clone();
    std::fs::write(&path, "half").unwrap();
    assert!(keyring.find("kek-other").await.is_err());
    assert!(keyring.find(&kek_id).await.is_ok());
    // But no data key is wrapped by what the file does not hold.
    assert!(keyring.hold(false).await.is_err());
}
