//! Who is refused, for how long, and what of: many readers at once, slow words, registries that refuse without reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::provider::{Scripted, Shared, basic, password, with};
use super::server::{Image, Reply, Request, Server, Then, open};
use crate::credentials::{CredentialError, CredentialRequest};
use crate::registry::asker::Asker;
use crate::registry::{ImageSource, RegistryError, RegistryOptions};

async fn read(source: &ImageSource, image: &Image) -> Result<(), RegistryError> {
    source.blob(&image.blob()).await?.collect().await.map(|bytes| assert_eq!(bytes, image.layer[..]))
}

/// A registry whose token is `t<epoch>`, for whoever has the password `p0`; `refuse` answers all who show another.
async fn tokens(
    image: &Image,
    epoch: &Arc<AtomicUsize>,
    refuse: impl Fn(&Request) -> Option<Reply> + Send + Sync + 'static,
) -> Server {
    let (image, epoch) = (image.clone(), Arc::clone(epoch));
    Server::start("127.0.0.1", move |r, _| {
        let token = format!("t{}", epoch.load(SeqCst));
        if r.target.starts_with("/token") {
            return match r.header("authorization") == Some(&basic("p0")) {
                true => Reply::new(200, format!(r#"{{"token":"{token}","expires_in":300}}"#)),
                false => Reply::new(401, ""),
            };
        }
        let realm = format!("http://{}/token", r.header("host").unwrap());
        let challenge = || Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\""));
        match r.header("authorization") {
            None => challenge(),
            Some(given) if given == format!("Bearer {token}") => image.answer(r),
            Some(_) => refuse(r).unwrap_or_else(challenge),
        }
    })
    .await
}

#[tokio::test]
async fn one_renewal_after_403_for_many_readers() {
    let image = Image::new(100);
    let epoch = Arc::new(AtomicUsize::new(0));
    let server = tokens(&image, &epoch, |_| Some(Reply::new(403, ""))).await;
    let provider = Scripted::new(|_| Ok(password("p0", None)));
    let source = open(&server.host, with(&provider)).await;
    read(&source, &image).await.unwrap();
    for round in 1..=2 {
        epoch.store(round, SeqCst);
        // All of them send what has ended before any of them hears of it.
        let before = server.count("/token");
        for outcome in join_all((0..50).map(|_| read(&source, &image))).await {
            outcome.unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        assert_eq!(server.count("/token") - before, 1, "round {round}");
        source.age_tokens(Duration::from_secs(31));
    }
}

#[tokio::test]
async fn what_is_forbidden_is_not_renewed_for_ever() {
    let image = Image::new(100);
    let forbidden = Arc::new(AtomicBool::new(false));
    let (served, forbids) = (image.clone(), Arc::clone(&forbidden));
    let server = Server::start("127.0.0.1", move |r, _| match r.header("authorization") {
        Some(given) if given == basic("p0") && forbids.load(SeqCst) => Reply::new(403, ""),
        Some(given) if given == basic("p0") => served.answer(r),
        _ => Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let provider = Scripted::new(|_| Ok(password("p0", None)));
    let source = open(&server.host, with(&provider)).await;
    read(&source, &image).await.unwrap();
    forbidden.store(true, SeqCst);
    for _ in 0..10 {
        let error = read(&source, &image).await.unwrap_err();
        assert!(matches!(&error, RegistryError::Denied { reason, .. } if reason.contains("403")), "{error}");
    }
    assert_eq!(
        provider.refused.load(SeqCst),
        0,
        "the same password was tried again: it was said a moment ago"
    );
    assert_eq!((provider.asked(), server.requests().len()), (1, 2 + 11), "one replay for ten refusals");
}

#[tokio::test]
async fn words_that_drip_kill_nothing_newer() {
    let image = Image::new(100);
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, _| match r.header("authorization") {
        Some(given) if given == basic("new") => served.answer(r),
        Some(_) => Reply::new(401, r#"{"errors":[{"message":"no"}]}"#)
            .with("www-authenticate", "Basic realm=\"r\"")
            .then(Then::Stall(3)),
        None => Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let provider = Scripted::new(|n| Ok(password(if n == 0 { "old" } else { "new" }, None)));
    let options = RegistryOptions { progress_timeout: Duration::from_secs(1), ..with(&provider) };
    let source = open(&server.host, options).await;
    let slow = {
        let (source, image) = (source.clone(), image.clone());
        tokio::spawn(async move { read(&source, &image).await })
    };
    while server.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await; // now the slow one reads the words
    provider.version.store(1, SeqCst);
    source.age_tokens(Duration::ZERO);
    read(&source, &image).await.unwrap();
    let error = slow.await.unwrap().unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    source.age_tokens(Duration::ZERO);
    read(&source, &image).await.unwrap();
    assert_eq!(provider.asked(), 2);
}

#[tokio::test]
async fn the_words_reach_those_who_are_held_off() {
    let image = Image::new(100);
    let server = Server::start("127.0.0.1", move |_, _| {
        Reply::new(401, r#"{"errors":[{"message":"account closed"}]}"#)
            .with("www-authenticate", "Basic realm=\"r\"")
    })
    .await;
    let source = open(&server.host, with(&Scripted::new(|_| Ok(password("p", None))))).await;
    for _ in 0..2 {
        let error = read(&source, &image).await.unwrap_err();
        assert!(error.to_string().contains("account closed"), "{error}");
    }
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_denial_is_of_what_was_asked_for() {
    let provider = Scripted::new(|n| Ok(password(&format!("p{n}"), None)));
    let request = CredentialRequest {
        registry: "r.example".into(),
        image: "r.example/a:1".into(),
        scope: "repository:a:pull".into(),
    };
    let asker = Asker::new(Arc::new(Shared(Arc::clone(&provider))), request);
    let no = || RegistryError::NotFound("x".into());
    let first = asker.ask().await.unwrap();
    assert!(asker.deny(first.answer, no()).is_some());
    assert!(asker.held().is_some());
    // The source changes; then another reader comes with the same news. It says nothing about what the source has now.
    provider.version.store(1, SeqCst);
    assert!(asker.deny(first.answer, no()).is_none());
    asker.age(Duration::ZERO);
    assert!(asker.held().is_none(), "the hold is of the version that was asked");
    let second = asker.ask().await.unwrap();
    assert!(asker.deny(first.answer, no()).is_none());
    assert!(asker.held().is_none() && asker.kept().is_some(), "the newer answer stays");
    assert!(asker.deny(second.answer, no()).is_some());
    assert!(asker.held().is_some() && asker.kept().is_none());
}

#[tokio::test]
async fn a_registry_that_refuses_every_second_request_is_no_storm() {
    let image = Image::new(100);
    // Tokens: made anew of what the provider said.
    let requests = Arc::new(AtomicUsize::new(0));
    let (counted, served) = (Arc::clone(&requests), image.clone());
    let server = Server::start("127.0.0.1", move |r, _| {
        if r.target.starts_with("/token") {
            return Reply::new(200, r#"{"token":"t","expires_in":300}"#);
        }
        let realm = format!("http://{}/token", r.header("host").unwrap());
        match counted.fetch_add(1, SeqCst) % 2 == 1 && r.header("authorization").is_some() {
            true => served.answer(r),
            false => Reply::new(401, "").with("www-authenticate", format!("Bearer realm=\"{realm}\"")),
        }
    })
    .await;
    let provider = Scripted::new(|_| Ok(password("p", None)));
    let source = open(&server.host, with(&provider)).await;
    for _ in 0..20 {
        read(&source, &image).await.unwrap();
    }
    assert_eq!((provider.asked(), server.count("/token")), (1, 20));

    // A password: shown once more before anybody is asked.
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, n| match n % 2 == 1 {
        true => served.answer(r),
        false => Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let provider = Scripted::new(|_| Ok(password("p", None)));
    let source = open(&server.host, with(&provider)).await;
    let started = Instant::now();
    for _ in 0..20 {
        read(&source, &image).await.unwrap();
    }
    let most = 1 + started.elapsed().as_secs() / 2;
    assert!(u64::try_from(provider.asked()).unwrap() <= most, "asked {} times", provider.asked());

    // Refused twice of three times: the provider is asked, at a pace.
    let served = image.clone();
    let server = Server::start("127.0.0.1", move |r, n| match n % 3 == 2 {
        true => served.answer(r),
        false => Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\""),
    })
    .await;
    let provider = Scripted::new(|_| Ok(password("p", None)));
    let source = open(&server.host, with(&provider)).await;
    let started = Instant::now();
    for _ in 0..3 {
        let _ = read(&source, &image).await;
    }
    let most = 1 + started.elapsed().as_secs() / 2;
    assert!(u64::try_from(provider.asked()).unwrap() <= most, "asked {} times", provider.asked());
}

#[tokio::test]
async fn a_provider_that_is_out_of_order_is_left_alone() {
    let image = Image::new(100);
    let server = tokens(&image, &Arc::default(), |_| None).await;
    for error in [
        CredentialError::Malformed("x".into()),
        CredentialError::Configuration("x".into()),
        CredentialError::Broken("x".into()),
        CredentialError::Refused("x".into()),
    ] {
        let said = error.clone();
        let provider = Scripted::new(move |_| Err(said.clone()));
        let source = open(&server.host, with(&provider)).await;
        for asked in 1..=2 {
            for _ in 0..10 {
                let told = read(&source, &image).await.unwrap_err();
                assert!(matches!(&told, RegistryError::Credentials(told) if *told == error), "{told}");
            }
            assert_eq!(provider.asked(), asked, "{error}");
            provider.version.fetch_add(1, SeqCst);
            source.age_tokens(Duration::ZERO);
        }
        let _ = read(&source, &image).await;
        source.age_tokens(Duration::from_secs(6));
        let _ = read(&source, &image).await;
        assert_eq!(provider.asked(), 4, "{error}: asked again after a while");
    }
}

#[tokio::test]
async fn refusals_that_are_redirects() {
    let image = Image::new(100);
    let epoch = Arc::new(AtomicUsize::new(0));
    let login = |r: &Request| match r.target.as_str() {
        "/login" => Some(Reply::new(401, "").with("www-authenticate", "Basic realm=\"r\"")),
        _ => None,
    };
    let (served, current) = (image.clone(), Arc::clone(&epoch));
    let server = Server::start("127.0.0.1", move |r, _| {
        let right = r.header("authorization") == Some(&basic(&format!("p{}", current.load(SeqCst))));
        login(r).unwrap_or_else(|| match right {
            true => served.answer(r),
            false => Reply::new(302, "").with("location", "/login"),
        })
    })
    .await;
    // Who is let in later comes back to what was asked for, not to the page that refuses all.
    let provider = Scripted::new(|n| Ok(password(&format!("p{n}"), None)));
    let source = open(&server.host, with(&provider)).await;
    read(&source, &image).await.unwrap();
    epoch.store(1, SeqCst);
    source.age_tokens(Duration::from_secs(10));
    read(&source, &image).await.unwrap();
    assert_eq!(provider.asked(), 2);

    // What never worked was not accepted by being sent away.
    let provider = Scripted::new(|_| Ok(password("wrong", None)));
    let source = open(&server.host, with(&provider)).await;
    let before = server.requests().len();
    let error = read(&source, &image).await.unwrap_err();
    assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    assert_eq!((provider.asked(), server.requests().len() - before), (1, 4), "two refusals, two redirects");
}
