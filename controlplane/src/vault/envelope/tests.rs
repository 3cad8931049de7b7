use proptest::prelude::*;
use secrecy::ExposeSecret as _;

use super::*;
use crate::model::{SecretId, Time};

fn secret() -> Secret {
    Secret {
        secret_id: SecretId::from("s-1"),
        workspace_id: WorkspaceId::from("w-1"),
        name: "oci-registry-r".to_owned(),
        registry: "r.example.com".to_owned(),
        version: 3,
        create_time: Time(0),
        update_time: Time(0),
    }
}

fn key(byte: u8) -> Key {
    Key::of_bytes(&[byte; KEY]).unwrap()
}

#[test]
fn a_value_comes_back() {
    let value = fixtures::secret::secret("envelope");
    let record = seal(&key(1), &KeyId::from("k"), &secret(), value.as_bytes());
    assert_eq!(record.len(), 1 + NONCE + value.len() + TAG);
    assert!(fixtures::secret::find(&record).is_none());
    let opened = open(&key(1), &KeyId::from("k"), &secret(), &record).unwrap();
    assert_eq!(opened.expose_secret(), value.as_bytes());
}

#[test]
fn empty_and_binary_values_come_back() {
    for value in [&b""[..], &[0, 255, 10, 13], &[7; 70_000]] {
        let record = seal(&key(1), &KeyId::from("k"), &secret(), value);
        let opened = open(&key(1), &KeyId::from("k"), &secret(), &record).unwrap();
        assert_eq!(opened.expose_secret(), value);
    }
}

#[test]
fn the_same_value_is_never_sealed_alike() {
    let seal = || seal(&key(1), &KeyId::from("k"), &secret(), b"v");
    assert_ne!(seal(), seal());
}

/// The form that is in databases: it opens for ever, or gets a new version byte. Made by another implementation (HChaCha20 by hand over
/// OpenSSL's ChaCha20-Poly1305).
#[test]
fn a_record_of_the_first_version_opens() {
    let record = hex::decode(FIRST).unwrap();
    let opened = open(&key(1), &KeyId::from("k"), &secret(), &record).unwrap();
    assert_eq!(opened.expose_secret(), b"value");
    let wrapped = hex::decode(FIRST_KEY).unwrap();
    let workspace = WorkspaceId::from("w-1");
    let binding = KeyBinding { workspace: &workspace, key: &KeyId::from("k"), kek_id: "kek-1" };
    assert_eq!(unwrap(&key(2), &binding, &wrapped).unwrap().expose(), &[1; KEY]);
}

const FIRST: &str =
    "01000102030405060708090a0b0c0d0e0f10111213141516170eb1b7f0f81ff5983ed8317a9d9ced959595aee34c";
const FIRST_KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161772bb03018c6f55a2d74716cbd3ea8f4d000a5b597a810021d2a55d0e227174c52ac0d436a253006cba781ddb89cb0a36";

#[test]
fn another_description_does_not_open() {
    let record = seal(&key(1), &KeyId::from("k"), &secret(), b"v");
    type Change = fn(&mut Secret);
    let changes: [(&str, Change); 8] = [
        ("workspace", |s| s.workspace_id = WorkspaceId::from("w-2")),
        ("secret", |s| s.secret_id = SecretId::from("s-2")),
        ("older", |s| s.version = 2),
        ("newer", |s| s.version = 4),
        ("registry", |s| s.registry = "other.example.com".to_owned()),
        ("name", |s| s.name = "oci-registry-other".to_owned()),
        ("plain", |s| s.registry.clear()),
        ("boundary", |s| {
            s.registry = "r.example.co".to_owned();
            s.name = "moci-registry-r".to_owned();
        }),
    ];
    for (what, change) in changes {
        let mut other = secret();
        change(&mut other);
        assert!(open(&key(1), &KeyId::from("k"), &other, &record).is_err(), "{what}");
    }
    assert!(open(&key(1), &KeyId::from("k2"), &secret(), &record).is_err(), "key id");
    assert!(open(&key(2), &KeyId::from("k"), &secret(), &record).is_err(), "key");
    let mut touched = secret();
    touched.update_time = Time(9);
    assert!(open(&key(1), &KeyId::from("k"), &touched, &record).is_ok(), "times are not bound");
}

#[test]
fn another_binding_does_not_unwrap() {
    let (w, k) = (WorkspaceId::from("w"), KeyId::from("k"));
    let binding = KeyBinding { workspace: &w, key: &k, kek_id: "kek-1" };
    let wrapped = wrap(&key(2), &binding, &key(1));
    assert!(unwrap(&key(2), &binding, &wrapped).is_ok());
    let (w2, k2) = (WorkspaceId::from("w2"), KeyId::from("k2"));
    assert!(unwrap(&key(2), &KeyBinding { workspace: &w2, ..binding }, &wrapped).is_err());
    assert!(unwrap(&key(2), &KeyBinding { key: &k2, ..binding }, &wrapped).is_err());
    assert!(unwrap(&key(2), &KeyBinding { kek_id: "kek-2", ..binding }, &wrapped).is_err());
    assert!(unwrap(&key(3), &binding, &wrapped).is_err());
    // A record of one kind is none of the other.
    let record = seal(&key(2), &k, &secret(), &[1; KEY]);
    assert!(unwrap(&key(2), &binding, &record[1..]).is_err());
}

#[test]
fn what_is_short_does_not_open() {
    let record = seal(&key(1), &KeyId::from("k"), &secret(), b"v");
    for length in 0..record.len() {
        assert!(open(&key(1), &KeyId::from("k"), &secret(), &record[..length]).is_err(), "{length}");
    }
}

#[test]
fn nothing_is_shown() {
    let text = format!("{:?} {:?}", key(0x41), DoesNotOpen);
    assert!(!text.contains("65") && !text.contains("41"), "{text}");
}

proptest! {
    #[test]
    fn any_changed_bit_does_not_open(value in prop::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut record = seal(&key(1), &KeyId::from("k"), &secret(), &value);
        let at = at.index(record.len());
        record[at] ^= 1 << bit;
        prop_assert!(open(&key(1), &KeyId::from("k"), &secret(), &record).is_err());
    }

    #[test]
    fn any_other_fields_do_not_open(
        value in prop::collection::vec(any::<u8>(), 0..50),
        fields in prop::collection::vec("[ab]{0,3}", 10),
        versions in (0..3u64, 0..3u64),
    ) {
        let described = |f: &[String], version| (KeyId::from(f[0].as_str()), Secret {
            secret_id: SecretId::from(f[1].as_str()),
            workspace_id: WorkspaceId::from(f[2].as_str()),
            name: f[3].clone(),
            registry: f[4].clone(),
            version,
            create_time: Time(0),
            update_time: Time(0),
        });
        let (a, b) = (described(&fields[..5], versions.0), described(&fields[5..], versions.1));
        let record = seal(&key(1), &a.0, &a.1, &value);
        prop_assert_eq!(open(&key(1), &b.0, &b.1, &record).is_ok(), a == b);
        prop_assert!(open(&key(1), &a.0, &a.1, &record).is_ok());
    }

    #[test]
    fn garbage_does_not_open(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(open(&key(1), &KeyId::from("k"), &secret(), &bytes).is_err());
        let workspace = WorkspaceId::from("w");
        let binding = KeyBinding { workspace: &workspace, key: &KeyId::from("k"), kek_id: "x" };
        prop_assert!(unwrap(&key(1), &binding, &bytes).is_err());
    }
}
