use super::*;

fn line(byte: u8, word: &str) -> String {
    let mut bytes = [byte; KEY];
    bytes[0] = 0;
    let kek = Kek::new(Key::of_bytes(&bytes).unwrap(), Role::Old);
    format!("{} {}{word}", kek.kek_id, STANDARD.encode(bytes))
}

fn roles(keks: &Keks) -> Vec<Role> {
    keks.iter().map(|kek| kek.role).collect()
}

#[test]
fn a_file_says_which_key_is_what() {
    let text = format!("# made by hand\n\n{}\n  {}  \n{}\n", line(1, ""), line(2, ""), line(3, " next"));
    let keks = Keks::parse(text.as_bytes()).unwrap();
    assert_eq!(roles(&keks), [Role::Active, Role::Old, Role::Next]);
    let again = Keks::parse(keks.to_text().as_bytes()).unwrap();
    assert_eq!(*again.to_text(), *keks.to_text());
    assert_eq!(keks.to_text().lines().count(), 3);
    assert!(keks.to_text().lines().all(|line| line.len() < MAX_LINE));
    assert!(keks.get(&keks.active().kek_id).is_some() && keks.get("kek-0").is_none());
}

#[test]
fn a_rotation_in_the_file() {
    let one = Keks::only(Key::generate());
    let two = one.with_next(Key::generate());
    assert_eq!(roles(&two), [Role::Active, Role::Next]);
    assert_eq!(two.with_next(Key::generate()).iter().count(), 2, "one next key at a time");
    let promoted = two.promoted();
    assert_eq!(roles(&promoted), [Role::Active, Role::Old]);
    assert_eq!(promoted.active().kek_id, two.next().unwrap().kek_id);
    assert_eq!(promoted.old().collect::<Vec<_>>(), [&one.active().kek_id]);
    let three = promoted.with_next(Key::generate()).without_old();
    assert_eq!(roles(&three), [Role::Active, Role::Next], "the next key stays");
    assert_eq!(one.promoted().active().kek_id, one.active().kek_id, "without a next key nothing changes");
}

#[test]
fn a_raw_key_is_one_key() {
    let bytes: Vec<u8> = (0..32).collect();
    let keks = Keks::parse(&bytes).unwrap();
    assert_eq!(keks.active().key.expose()[..], bytes);
    assert_eq!(Keks::parse(keks.to_text().as_bytes()).unwrap().active().kek_id, keks.active().kek_id);
}

#[test]
fn what_is_no_key_file_is_refused_without_showing_it() {
    let good = line(1, "");
    let (id, base64) = good.split_once(' ').unwrap();
    let other = line(2, "");
    let other_id = other.split_once(' ').unwrap().0;
    let zeros = Kek::new(Key::of_bytes(&[0; KEY]).unwrap(), Role::Old);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "holds no key"),
        (b"# nothing\n\n".to_vec(), "holds no key"),
        (vec![0; KEY], "one byte, repeated"),
        (vec![7; KEY], "one byte, repeated"),
        (vec![0xff; 33], "neither text nor exactly 32 bytes"),
        (base64.as_bytes().to_vec(), "line 1 is not"),
        (format!("{id} {}", &base64[..40]).into_bytes(), "line 1 is not"),
        (format!("{id} {base64}AAAA").into_bytes(), "line 1 is not"),
        (format!("{id} !{}", &base64[1..]).into_bytes(), "line 1 is not"),
        (format!("{other_id} {base64}").into_bytes(), "not the one that it names"),
        (format!("{good}\n{good}").into_bytes(), "line 2 has the key"),
        (format!("{good} next").into_bytes(), "the first key is active"),
        (format!("{good} later").into_bytes(), "line 1 is not"),
        (format!("{good}\n{} next again", line(2, "")).into_bytes(), "line 2 is not"),
        (
            format!("{good}\n{}\n{}", line(2, " next"), line(3, " next")).into_bytes(),
            "second key that is next",
        ),
        (format!("{} {}", zeros.kek_id, STANDARD.encode([0; KEY])).into_bytes(), "one byte, repeated"),
    ];
    for (bytes, why) in cases {
        let error = Keks::parse(&bytes).unwrap_err();
        assert!(error.contains(why), "{error}");
        assert!(!error.contains(&base64[2..20]), "{error}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_keys_or_an_error(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        let _ = Keks::parse(&bytes);
    }
}
