//! When the provider is asked: before there is a challenge, when its answer ends, when its source changes; and when not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use super::provider::{Scripted, basic, password, with};
use super::server::{Image, Reply, Server, open, options};
use crate::credentials::provider::Answer;
use crate::credentials::{Credential, CredentialError};
use crate::oci::Platform;
use crate::registry::{ImageSource, RegistryError, within};

/// A registry that wants `u` with the password `pl4nted-p<epoch>`.
async fn registry(image: &Image, epoch: &Arc<AtomicUsize>) -> Server {
    let (image, epoch) = (image.clone(), Arc::clone(epoch));
    Server::start("127.0.0.1", move |r, _| {
        if r.header("authorization") == Some(&basic(&format!("pl4nted-p{}", epoch.load(SeqCst)))) {
            image.answer(r)
        } else {
            Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\"")
        }
    })
    .await
}

async fn read(source: &ImageSource, image: &Image) -> Result<(), RegistryError> {
    source.blob(&image.blob()).await?.collect().await.map(|bytes| assert_eq!(bytes, image.layer[..]))
}

#[tokio::test]
async fn unusable_credentials_are_told_where_nobody_wants_any() {
    let image = Image::new(10);
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, _| served.answer(r)).await;
    for (say, want) in [
        (Err(CredentialError::Malformed("image_credentials: no JSON".into())), "no JSON"),
        (Ok(password("pl4nted-\r\nX: y", None)), "line breaks"),
        (Ok(Answer { credential: Credential::Bearer("pl4nted- a".into()), valid_for: None }), "no header"),
        (Ok(Answer { credential: Credential::RefreshToken("a\0".into()), valid_for: None }), "no header"),
        (Ok(password("pl4nted-p", Some(0))), "ended already"),
    ] {
        let provider = Scripted::new(move |_| say.clone());
        let source = open(&server.host, with(&provider)).await;
        let error = source.authenticate().await.unwrap_err();
        assert!(matches!(error, RegistryError::Credentials(_)), "{error}");
        assert!(error.to_string().contains(want) && !error.to_string().contains("pl4nted-"), "{error}");
        read(&source, &image).await.unwrap(); // the registry is public
        assert_eq!(provider.asked(), 1, "definite errors are not asked for again");
    }
    open(&server.host, options()).await.authenticate().await.unwrap();
    assert!(server.requests().iter().all(|r| r.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_asked_early_is_kept() {
    let image = Image::new(100);
    let server = registry(&image, &Arc::default()).await;
    let provider = Scripted::new(|_| Ok(password("pl4nted-p0", None)));
    let source = open(&server.host, with(&provider)).await;
    let platform = Platform::parse("linux/amd64").unwrap();
    // Beside requests, and many at once: one call.
    let early: Vec<_> = (0..20).map(|_| source.clone()).collect();
    let early: Vec<_> =
        early.into_iter().map(|s| tokio::spawn(async move { s.authenticate().await })).collect();
    let (resolved, authenticated) = tokio::join!(source.resolve(&platform), source.authenticate());
    resolved.unwrap();
    authenticated.unwrap();
    for early in early {
        early.await.unwrap().unwrap();
    }
    read(&source, &image).await.unwrap();
    assert_eq!(provider.asked(), 1);
    provider.version.store(1, SeqCst);
    source.authenticate().await.unwrap();
    assert_eq!(provider.asked(), 2, "another source, another question");
}

#[tokio::test]
async fn a_provider_that_keeps_answers_is_told_of_refusals() {
    let image = Image::new(10);
    let epoch = Arc::new(AtomicUsize::new(0));
    let server = registry(&image, &epoch).await;
    let now = Arc::clone(&epoch);
    let provider = Scripted::new(move |_| Ok(password(&format!("pl4nted-p{}", now.load(SeqCst)), None)));
    let source = open(&server.host, with(&provider)).await;
    read(&source, &image).await.unwrap();
    assert_eq!(provider.refused.load(SeqCst), 0, "nothing was refused yet");
    epoch.store(1, SeqCst);
    read(&source, &image).await.unwrap();
    assert_eq!((provider.refused.load(SeqCst), provider.asked()), (1, 2));
}

#[tokio::test]
async fn a_changed_source_ends_the_hold() {
    let image = Image::new(10);
    let epoch = Arc::new(AtomicUsize::new(0));
    let server = registry(&image, &epoch).await;
    let known = Arc::new(AtomicUsize::new(0));
    let says = Arc::clone(&known);
    let provider = Scripted::new(move |_| Ok(password(&format!("pl4nted-p{}", says.load(SeqCst)), None)));
    let source = open(&server.host, with(&provider)).await;
    read(&source, &image).await.unwrap();
    epoch.store(1, SeqCst); // rotated, and the source does not know yet
    let denied = read(&source, &image).await.unwrap_err();
    assert!(matches!(denied, RegistryError::Denied { .. }), "{denied}");
    let (requests, asked) = (server.requests().len(), provider.asked());
    for _ in 0..10 {
        assert!(matches!(read(&source, &image).await, Err(RegistryError::Denied { .. })));
    }
    assert_eq!((server.requests().len(), provider.asked()), (requests, asked), "held off");
    known.store(1, SeqCst);
    provider.version.store(1, SeqCst);
    read(&source, &image).await.unwrap();
    assert_eq!(provider.asked(), asked + 1);
    // Without a version, when the time is over.
    epoch.store(2, SeqCst);
    read(&source, &image).await.unwrap_err();
    known.store(2, SeqCst);
    read(&source, &image).await.unwrap_err();
    source.age_tokens(Duration::from_secs(31));
    read(&source, &image).await.unwrap();
}

#[tokio::test]
async fn a_definite_no_of_the_source_holds_off_until_it_changes() {
    let image = Image::new(10);
    let server = registry(&image, &Arc::default()).await;
    let provider = Scripted::new(|n| match n {
        0 => Err(CredentialError::Denied { registry: "r".into(), reason: "secret deleted".into() }),
        _ => Ok(password("pl4nted-p0", None)),
    });
    let source = open(&server.host, with(&provider)).await;
    for _ in 0..5 {
        let error = read(&source, &image).await.unwrap_err();
        assert!(error.to_string().contains("secret deleted"), "{error}");
    }
    assert_eq!((provider.asked(), server.requests().len()), (1, 1));
    provider.version.store(1, SeqCst);
    read(&source, &image).await.unwrap();
}

#[tokio::test]
async fn an_answer_that_ends_is_asked_for_again_before_use() {
    let image = Image::new(10);
    let epoch = Arc::new(AtomicUsize::new(0));
    let server = registry(&image, &epoch).await;
    let provider = Scripted::new(|n| Ok(password(&format!("p{n}"), Some(100))));
    let source = open(&server.host, with(&provider)).await;
    read(&source, &image).await.unwrap();
    let before = server.requests().len();
    epoch.store(1, SeqCst);
    source.age_tokens(Duration::from_secs(101));
    read(&source, &image).await.unwrap();
    assert_eq!(server.requests().len() - before, 1, "nothing was sent with what had ended");
    assert_eq!(provider.asked(), 2);
    // 90 % of its life: renewed beside the reads, which go on with what there is.
    epoch.store(2, SeqCst);
    source.age_tokens(Duration::from_secs(90));
    while provider.asked() < 3 {
        let _ = read(&source, &image).await;
        tokio::task::yield_now().await;
    }
    read(&source, &image).await.unwrap();
    assert_eq!(provider.asked(), 3);
}

#[tokio::test]
async fn a_provider_that_is_away_is_not_noticed_while_its_answer_holds() {
    let image = Image::new(10);
    let served = image.clone();
    let revoked = Arc::new(AtomicUsize::new(0));
    let epoch = Arc::clone(&revoked);
    let server = Server::start("127.0.0.1", move |r, _| {
        let token = format!("t{}", epoch.load(SeqCst));
        if r.target.starts_with("/token") {
            return match r.header("authorization") == Some(&basic("pl4nted-p0")) {
                true => Reply::new(200, format!(r#"{{"token":"{token}","expires_in":300}}"#)),
                false => Reply::new(401, ""),
            };
        }
        if r.header("authorization") == Some(&format!("Bearer {token}")) {
            return served.answer(r);
        }
        let realm = format!("http://{}/token", r.header("host").unwrap());
        Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\""))
    })
    .await;
    let away = Arc::new(AtomicBool::new(false));
    let is_away = Arc::clone(&away);
    let provider = Scripted::new(move |_| match is_away.load(SeqCst) {
        true => Err(CredentialError::Unavailable("gone".into())),
        false => Ok(password("pl4nted-p0", Some(1000))),
    });
    let source = open(&server.host, with(&provider)).await;
    read(&source, &image).await.unwrap();
    away.store(true, SeqCst);
    for (age, what) in
        [(0, "the token is valid"), (290, "early renewal"), (20, "the token has ended"), (600, "stale")]
    {
        source.age_tokens(Duration::from_secs(age));
        read(&source, &image).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    revoked.store(1, SeqCst); // all tokens: new ones are made of what there is
    read(&source, &image).await.unwrap();
    source.age_tokens(Duration::from_secs(1000)); // now it has ended
    let error = read(&source, &image).await.unwrap_err();
    assert!(matches!(error, RegistryError::Credentials(CredentialError::Unavailable(_))), "{error}");
    away.store(false, SeqCst);
    read(&source, &image).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn try_later_is_no_storm() {
    let image = Image::new(10);
    let server = registry(&image, &Arc::default()).await;
    let later = |after| CredentialError::TryLater { reason: "throttled".into(), after };
    let wait = Duration::from_millis(300);
    let provider =
        Scripted::new(
            move |n| if n == 0 { Err(later(Some(wait))) } else { Ok(password("pl4nted-p0", None)) },
        );
    let source = open(&server.host, with(&provider)).await;
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let (source, image) = (source.clone(), image.clone());
            tokio::spawn(async move { read(&source, &image).await })
        })
        .collect();
    for reader in readers {
        reader.await.unwrap().unwrap();
    }
    assert_eq!(provider.asked(), 2, "once, and once more after the wait");

    // A wait that cannot end in time is told, not begun.
    let provider = Scripted::new(move |_| Err(later(Some(Duration::from_secs(3600)))));
    let source = open(&server.host, with(&provider)).await;
    for _ in 0..3 {
        let error = within(Duration::from_secs(5), source.authenticate()).await.unwrap_err();
        let RegistryError::Credentials(CredentialError::TryLater { after: Some(after), .. }) = error else {
            panic!("{error}")
        };
        assert!(after <= Duration::from_secs(3600));
        within(Duration::from_secs(5), read(&source, &image)).await.unwrap_err();
    }
    assert_eq!(provider.asked(), 1);
    provider.version.store(1, SeqCst);
    within(Duration::from_secs(5), source.authenticate()).await.unwrap_err();
    assert_eq!(provider.asked(), 2, "a changed source may know better");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_away_is_asked_at_a_pace() {
    let image = Image::new(10);
    let server = registry(&image, &Arc::default()).await;
    let provider = Scripted::new(|_| Err(CredentialError::Unavailable("gone".into())));
    let source = open(&server.host, with(&provider)).await;
    let readers: Vec<_> = (0..50)
        .map(|_| {
            let (source, image) = (source.clone(), image.clone());
            tokio::spawn(async move { read(&source, &image).await })
        })
        .collect();
    for reader in readers {
        let error = reader.await.unwrap().unwrap_err();
        assert!(matches!(error, RegistryError::Credentials(CredentialError::Unavailable(_))), "{error}");
    }
    // 50 readers with three attempts each share what one of them is told.
    assert!(provider.asked() <= 12, "{}", provider.asked());
}

#[tokio::test]
async fn answers_that_end_at_once_end_in_an_error() {
    let image = Image::new(10);
    let server = registry(&image, &Arc::default()).await;
    let provider = Scripted::new(|_| {
        let valid_for = Some(Duration::from_nanos(1));
        Ok(Answer { valid_for, ..password("pl4nted-p0", None) })
    });
    let error = read(&open(&server.host, with(&provider)).await, &image).await.unwrap_err();
    assert!(error.to_string().contains("before they can be presented"), "{error}");
    assert!(provider.asked() <= 12, "{}", provider.asked());
}
