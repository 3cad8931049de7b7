//! What the servers do in each scenario.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Nobody,
    Password,
    RefreshToken,
    RegistryToken,
}

/// Statuses with templates of `Location`.
pub(super) type Moves = Option<(u16, &'static str)>;

/// What all servers do. Challenges are templates.
#[derive(Debug, Clone)]
pub(super) struct Site {
    pub(super) name: String,
    pub(super) who: Who,
    pub(super) challenges: Vec<&'static str>,
    /// In place of `challenges` from the tenth request on, when all that was accepted before is refused.
    pub(super) later: Option<Vec<&'static str>>,
    pub(super) blobs: Moves,
    pub(super) manifests: Moves,
    /// What the store answers to all: a challenge or a redirect; `None` = blobs.
    pub(super) store_challenge: Option<&'static str>,
    pub(super) store: Moves,
    pub(super) tokens: Moves,
    /// What the mirror answers: a challenge or a redirect.
    pub(super) mirror: Option<(Option<&'static str>, Moves)>,
    pub(super) works: bool,
    /// Whether the collector may be reached at all.
    pub(super) reaches_evil: bool,
}

pub(super) const BEARER: &str =
    "Bearer realm=\"http://{token}/token\",service=\"s\",scope=\"repository:app:pull\"";
pub(super) const BASIC: &str = "Basic realm=\"x\"";
pub(super) const TO_STORE: &str = "http://{store}/o/{blob}?X-Amz-Signature={sig}";

pub(super) fn site(name: impl Into<String>) -> Site {
    Site {
        name: name.into(),
        who: Who::Password,
        challenges: vec![BEARER],
        later: None,
        blobs: None,
        manifests: None,
        store_challenge: None,
        store: None,
        tokens: None,
        mirror: None,
        works: true,
        reaches_evil: false,
    }
}

pub(super) fn table() -> Vec<Site> {
    let mut all = vec![
        site("realm elsewhere"),
        Site {
            challenges: vec!["Bearer realm=\"http://{registry}/token\",service=\"s\""],
            ..site("realm at home")
        },
        Site { challenges: vec!["Bearer realm=\"http://{token2}/token\""], ..site("realm on another port") },
        Site { challenges: vec![BASIC], ..site("basic") },
        Site {
            challenges: vec![BASIC, "Bearer realm=\"http://10.0.0.1/token\""],
            ..site("first supported wins")
        },
        Site {
            challenges: vec!["Negotiate, Basic realm=\"x\", Bearer realm=\"http://169.254.169.254/\""],
            ..site("several in one header")
        },
        Site { who: Who::Nobody, works: false, ..site("nobody") },
        Site { who: Who::RefreshToken, ..site("refresh token") },
        Site {
            who: Who::RefreshToken,
            challenges: vec![BASIC, BEARER],
            ..site("refresh token, basic first")
        },
        Site {
            who: Who::RefreshToken,
            challenges: vec![BASIC],
            works: false,
            ..site("refresh token, basic only")
        },
        Site { who: Who::RegistryToken, ..site("registry token") },
        Site { who: Who::RegistryToken, blobs: Some((307, TO_STORE)), ..site("registry token, redirect") },
        Site {
            challenges: vec!["Bearer realm=\"http://u:p@{evil}/token\""],
            works: false,
            ..site("realm with a user name")
        },
        Site {
            challenges: vec!["Bearer realm=\"http://evil.example/token\""],
            works: false,
            ..site("realm in the clear")
        },
        Site {
            challenges: vec!["Bearer realm=\"https://10.1.2.3/token\""],
            works: false,
            ..site("private realm")
        },
        Site {
            challenges: vec!["Bearer realm=\"file:///{evil}\""],
            works: false,
            ..site("realm of another kind")
        },
        Site { later: Some(vec!["Bearer realm=\"http://{token2}/token\""]), ..site("the realm moves") },
        Site { later: Some(vec![BASIC]), ..site("bearer becomes basic") },
        Site { challenges: vec![BASIC], later: Some(vec![BEARER]), ..site("basic becomes bearer") },
        Site {
            later: Some(vec!["Bearer realm=\"http://u@{evil}/token\""]),
            works: false,
            ..site("the realm turns bad")
        },
        Site { blobs: Some((307, "//{store}/o/{blob}?sig={sig}")), ..site("relative to the scheme") },
        Site { blobs: Some((307, "/moved/{blob}?sig={sig}")), ..site("relative to the host") },
        Site {
            blobs: Some((307, TO_STORE)),
            store: Some((302, "http://{registry}/moved/{blob}")),
            ..site("back to the first host after another")
        },
        Site {
            blobs: Some((307, "http://{registry2}/hop")),
            store: Some((302, "http://{registry}/v2/app/blobs/{blob}")),
            works: false,
            ..site("home by way of another port, to where credentials are wanted")
        },
        Site {
            blobs: Some((307, TO_STORE)),
            store: Some((307, "/p/{blob}")),
            works: false,
            ..site("for ever")
        },
        Site {
            blobs: Some((307, "http://u:p@{evil}/o/{blob}")),
            works: false,
            ..site("user name in Location")
        },
        Site { blobs: Some((307, "http://evil.example/o/{blob}")), works: false, ..site("in the clear") },
        Site {
            blobs: Some((307, "http://{evil}/o/{blob}")),
            works: false,
            reaches_evil: true,
            ..site("to the collector")
        },
        Site {
            blobs: Some((307, TO_STORE)),
            store: Some((307, "http://{evil}/o/{blob}")),
            works: false,
            reaches_evil: true,
            ..site("by the store to the collector")
        },
        Site {
            manifests: Some((307, "http://{store}/manifests/x?sig={sig}")),
            ..site("manifests, by GET and HEAD")
        },
        Site {
            manifests: Some((302, "http://{evil}/manifests/x")),
            works: false,
            reaches_evil: true,
            ..site("manifests to the collector")
        },
    ];
    for status in [301, 302, 303, 307, 308] {
        for (to, location) in [
            ("another host", TO_STORE),
            ("another port", "http://{registry2}/moved/{blob}?sig={sig}"),
            ("the same host", "http://{registry}/moved/{blob}?sig={sig}"),
        ] {
            for (how, challenge) in [("bearer", BEARER), ("basic", BASIC)] {
                let name = format!("{status} to {to}, {how}");
                all.push(Site { blobs: Some((status, location)), challenges: vec![challenge], ..site(name) });
            }
        }
        for (to, location) in [("collector", "http://{evil}/token"), ("registry", "http://{registry}/token")]
        {
            for who in [Who::Password, Who::RefreshToken] {
                let name = format!("token endpoint {status} to the {to}, {who:?}");
                all.push(Site { tokens: Some((status, location)), who, works: false, ..site(name) });
            }
        }
    }
    for challenge in [BASIC, BEARER, "Bearer realm=\"http://{evil}/token\"", "Negotiate"] {
        for who in [Who::Password, Who::RefreshToken, Who::RegistryToken] {
            let name = format!("a store that wants {challenge}, {who:?}");
            let blobs = Some((307, TO_STORE));
            all.push(Site { blobs, who, store_challenge: Some(challenge), works: false, ..site(name) });
            let name = format!("a mirror that wants {challenge}, {who:?}");
            all.push(Site { who, mirror: Some((Some(challenge), None)), ..site(name) });
        }
    }
    all.push(Site {
        mirror: Some((None, Some((307, "http://{evil}/o/{blob}")))),
        reaches_evil: true,
        ..site("a mirror to the collector")
    });
    all.push(Site { mirror: Some((None, Some((307, TO_STORE)))), ..site("a mirror to the store") });
    all.push(Site {
        mirror: Some((None, Some((307, "http://{registry}/v2/app/blobs/{blob}")))),
        ..site("a mirror to the registry")
    });
    all.push(Site { mirror: Some((None, None)), ..site("a mirror that serves") });
    all
}

/// Only where all speak TLS: whoever leads to plain http is not followed, and nobody there notices anything.
pub(super) fn downgrades() -> Vec<Site> {
    let clear = "plain://{evil}/o/{blob}";
    let mut all = vec![
        Site {
            blobs: Some((307, "plain://{store}/o/{blob}?sig={sig}")),
            ..site("blobs to the store in the clear")
        },
        Site {
            blobs: Some((307, "plain://{registry2}/o/{blob}")),
            ..site("blobs to another port in the clear")
        },
        Site { blobs: Some((307, TO_STORE)), store: Some((302, clear)), ..site("by the store to the clear") },
        Site {
            later: Some(vec!["Bearer realm=\"plain://{evil}/token\""]),
            ..site("the realm becomes clear")
        },
    ];
    for who in [Who::Password, Who::RefreshToken] {
        for status in [301, 302, 303, 307, 308] {
            all.push(Site { who, blobs: Some((status, clear)), ..site(format!("blobs, {status}, {who:?}")) });
            all.push(Site {
                who,
                manifests: Some((status, clear)),
                ..site(format!("manifests, {status}, {who:?}"))
            });
            all.push(Site {
                who,
                tokens: Some((status, "plain://{evil}/token")),
                ..site(format!("tokens, {status}, {who:?}"))
            });
        }
        let challenges = vec!["Bearer realm=\"plain://{evil}/token\",service=\"s\""];
        all.push(Site { who, challenges, ..site(format!("realm, {who:?}")) });
    }
    all.into_iter().map(|site| Site { works: false, ..site }).collect()
}
