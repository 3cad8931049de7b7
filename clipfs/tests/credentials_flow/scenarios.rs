//! What registries, token servers, stores and mirrors may say, and where secrets go then: a table, judged by the oracle.
//!
//! The registry is on 127.0.0.1, its token server on 127.0.0.2, the object store on 127.0.0.3, a mirror on 127.0.0.4, and on 127.0.0.5
//! somebody who collects. All of them set cookies. A registry may name any token server (GitLab's is elsewhere): no scenario
//! has it name the collector. Everybody else's word about realms counts for nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use clipfs::credentials::Credential;
use fixtures::registry::{Registry, Tls};
use fixtures::secret;
use futures_util::StreamExt as _;

mod table;

use table::{BASIC, Site, Who, downgrades, table};

use crate::oracle::{Allowed, violations};
use crate::server::{Answer, Bound, Reply, Seen, Server};
use crate::support::{Image, Source, amd64, basic, login, open_with, planted};

/// Five servers and a second port of two of them.
struct Hosts {
    /// Whether all of them speak TLS.
    tls: bool,
    registry: String,
    registry2: String,
    token: String,
    token2: String,
    store: String,
    mirror: String,
    evil: String,
}

impl Hosts {
    fn fill(&self, template: &str) -> String {
        let signature = planted("store-signature");
        let template = if self.tls { template.replace("http://{", "https://{") } else { template.to_owned() };
        [
            ("plain://", &"http://".to_owned()),
            ("{registry}", &self.registry),
            ("{registry2}", &self.registry2),
            ("{token}", &self.token),
            ("{token2}", &self.token2),
            ("{store}", &self.store),
            ("{mirror}", &self.mirror),
            ("{evil}", &self.evil),
            ("{sig}", &signature),
        ]
        .into_iter()
        .fold(template, |text, (name, value)| text.replace(name, value))
    }
}

fn cookie(reply: Reply, of: &str) -> Reply {
    reply.with("set-cookie", format!("sid={}; Path=/", planted(&format!("cookie-of-{of}"))))
}

fn challenged(hosts: &Hosts, challenges: &[&'static str]) -> Reply {
    challenges.iter().fold(Reply::new(401, "{}"), |reply, c| reply.with("www-authenticate", hosts.fill(c)))
}

/// `{blob}` is whichever was asked for.
fn moved(hosts: &Hosts, (status, location): (u16, &str), seen: &Seen) -> Reply {
    let blob = seen.path().rsplit('/').next().unwrap_or("");
    Reply::new(status, "").with("location", hosts.fill(location).replace("{blob}", blob))
}

fn registry(site: &Site, hosts: Arc<Hosts>, image: &Image) -> Answer {
    let (site, image, refused) = (site.clone(), image.clone(), AtomicUsize::new(0));
    Box::new(move |seen, n| {
        let reply = if seen.path() == "/token" {
            issue(seen, &hosts.registry)
        } else if seen.path().starts_with("/moved/") {
            image.answer(seen)
        } else if seen.path() == "/hop" {
            moved(&hosts, site.store.unwrap(), seen)
        } else {
            let later = site.later.as_ref().filter(|_| n >= 10);
            let challenges = later.unwrap_or(&site.challenges);
            let given = seen.header("authorization").unwrap_or("");
            let wants_basic = later.is_some() && challenges.first() == Some(&BASIC);
            let wants_token = later.is_some() && !wants_basic;
            // Whatever was given out before the change is refused after it.
            let stale = later.is_some() && refused.load(SeqCst) == 0;
            let good = (given == basic("u", &planted("password")) && !wants_token)
                || (given.starts_with(&format!("Bearer {}", planted("token"))) && !wants_basic)
                || given == format!("Bearer {}", planted("registry-token"));
            if !good || stale {
                if later.is_some() {
                    refused.fetch_add(1, SeqCst);
                }
                challenged(&hosts, challenges)
            } else if let (Some(to), true) = (site.blobs, seen.path().contains("/blobs/")) {
                moved(&hosts, to, seen)
            } else if let (Some(to), true) = (site.manifests, seen.path().contains("/manifests/")) {
                moved(&hosts, to, seen)
            } else {
                image.answer(seen)
            }
        };
        cookie(reply, "registry")
    })
}

/// A token for whoever shows the right secret.
fn issue(seen: &Seen, host: &str) -> Reply {
    let right = seen.header("authorization") == Some(&basic("u", &planted("password")))
        || seen.body.contains(&format!("refresh_token={}", planted("refresh-token")));
    if !right {
        return Reply::new(401, r#"{"error":"unauthorized"}"#);
    }
    let refresh = planted(&format!("unwanted-refresh-token-of-{host}"));
    Reply::new(
        200,
        format!(r#"{{"token":"{}","expires_in":300,"refresh_token":"{refresh}"}}"#, planted("token")),
    )
}

/// Takes whatever it gets, and asks for more.
fn collector(seen: &Seen, n: usize) -> Reply {
    let reply = if seen.path().starts_with("/token") {
        Reply::new(200, r#"{"token":"from-the-collector"}"#)
    } else {
        let realm = format!("Bearer realm=\"http://{}/token\"", seen.host);
        let first = if n.is_multiple_of(2) { BASIC } else { realm.as_str() };
        Reply::new(401, "{}").with("www-authenticate", first).with("www-authenticate", realm.as_str())
    };
    cookie(reply, "collector")
}

async fn play(site: &Site, tls: Option<Tls>) {
    let image = Image::new(100_000);
    let bound = [
        Bound::new("127.0.0.1", tls).await,
        Bound::new("127.0.0.1", tls).await,
        Bound::new("127.0.0.2", tls).await,
        Bound::new("127.0.0.2", tls).await,
        Bound::new("127.0.0.3", tls).await,
        Bound::new("127.0.0.4", tls).await,
        Bound::new("127.0.0.5", tls).await,
    ];
    let [r, r2, t, t2, s, m, e] = bound.each_ref().map(|bound| bound.host.clone());
    let hosts = Arc::new(Hosts {
        tls: tls.is_some(),
        registry: r,
        registry2: r2,
        token: t,
        token2: t2,
        store: s,
        mirror: m,
        evil: e,
    });
    let shared = || (Arc::clone(&hosts), image.clone(), site.clone());
    let tokens = |host: String| -> Answer {
        let (hosts, _, site) = shared();
        Box::new(move |seen, _| {
            cookie(
                site.tokens.map_or_else(|| issue(seen, &host), |to| moved(&hosts, to, seen)),
                "token server",
            )
        })
    };
    let (at, served, playing) = shared();
    let store: Answer = Box::new(move |seen, _| {
        let reply = match (playing.store_challenge, playing.store) {
            (Some(challenge), _) => challenged(&at, &[challenge]),
            (None, Some(to)) => moved(&at, to, seen),
            (None, None) => served.answer(seen),
        };
        cookie(reply, "store")
    });
    let (at, served, playing) = shared();
    let mirror: Answer = Box::new(move |seen, _| {
        let reply = match playing.mirror {
            Some((Some(challenge), _)) => challenged(&at, &[challenge]),
            Some((None, Some(to))) if seen.path().contains("/blobs/") => moved(&at, to, seen),
            _ => served.answer(seen),
        };
        cookie(reply, "mirror")
    });
    let answers = [
        registry(site, Arc::clone(&hosts), &image),
        registry(site, Arc::clone(&hosts), &image),
        tokens(hosts.token.clone()),
        tokens(hosts.token2.clone()),
        store,
        mirror,
        Box::new(collector),
    ];
    let servers: Vec<Server> =
        bound.into_iter().zip(answers).map(|(bound, answer)| bound.serve(answer)).collect();

    let dir = tempfile::tempdir().unwrap();
    let certs = (tls.is_some() || site.mirror.is_some()).then(|| {
        let host = dir.path().join(&hosts.registry);
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("ca.pem"), Registry::ca_pem()).unwrap();
        let (mut text, scheme, ca) = match tls {
            Some(_) => (
                format!("server = \"https://{}\"\nca = \"ca.pem\"\n", hosts.registry),
                "https",
                "ca = \"ca.pem\"\n",
            ),
            None => (String::new(), "http", ""),
        };
        if site.mirror.is_some() {
            let (mirror, key) = (format!("host.\"{scheme}://{}\"", hosts.mirror), planted("mirror-key"));
            text += &format!("[{mirror}]\n{ca}[{mirror}.header]\nx-key = \"{key}\"\n");
        }
        std::fs::write(host.join("hosts.toml"), text).unwrap();
        dir.path().to_owned()
    });
    let credential = match site.who {
        Who::Nobody => Credential::Anonymous,
        Who::Password => login("u", &planted("password")),
        Who::RefreshToken => Credential::RefreshToken(planted("refresh-token").into()),
        Who::RegistryToken => Credential::Bearer(planted("registry-token").into()),
    };
    let provider = Source::new(&hosts.registry, credential);
    let source = open_with(&format!("{}/app:1", hosts.registry), provider, certs).await;
    let outcome = async {
        source.authenticate().await?;
        source.resolve(&amd64()).await?;
        source.check(&image.manifest_digest()).await?;
        for _ in 0..6 {
            let read = source.blob_range(&image.blob(), 10..20).await?.collect().await?;
            assert_eq!(read, image.layer[10..20], "{}", site.name);
        }
        source.distrust(&image.blob());
        source.blob(&image.blob()).await?.collect().await
    }
    .await;
    let name = &site.name;
    if let Err(error) = &outcome {
        assert!(
            secret::find(format!("{error} {error:?}").as_bytes()).is_none(),
            "{name}: the error tells a secret"
        );
    }
    assert_eq!(outcome.is_ok(), site.works, "{name}: {:?}", outcome.err().map(|e| e.to_string()));
    let asked = servers[0].seen().len();
    assert!(site.later.is_none() || asked > 10, "{name}: {asked} requests, nothing changed under way");
    judge(site, &hosts, &servers);
}

fn judge(site: &Site, hosts: &Hosts, servers: &[Server]) {
    let name = &site.name;
    let basic =
        |host: &String| Allowed::Basic { host: host.clone(), pair: format!("u:{}", planted("password")) };
    let own_token =
        |host: &String, token: &str| Allowed::Bearer { host: host.clone(), token: planted(token) };
    let refresh = |host: &String| Allowed::Form {
        host: host.clone(),
        path: "/token".into(),
        field: "refresh_token",
        value: planted("refresh-token"),
    };
    let signed = |host: &String| Allowed::Query { host: host.clone(), value: planted("store-signature") };
    let key = Allowed::Header { host: hosts.mirror.clone(), name: "x-key", value: planted("mirror-key") };
    // Who was sent a signed link may see it again; the store's is for the store unless the scenario leads elsewhere.
    let mut allowed = vec![key];
    let link_to =
        |part: &str| [site.blobs, site.manifests].into_iter().flatten().any(|(_, to)| to.contains(part));
    let mirrored = site.mirror.is_some_and(|(_, to)| to.is_some_and(|(_, to)| to.contains("{sig}")));
    for (host, is_target) in [
        (&hosts.store, link_to("{store}") || mirrored),
        (&hosts.registry2, link_to("{registry2}")),
        (&hosts.registry, link_to("{registry}") || link_to("/moved/")),
    ] {
        allowed.extend(is_target.then(|| signed(host)));
    }
    // A password goes where the registry's own challenges name somebody, and to no others.
    let said: Vec<_> = site.challenges.iter().chain(site.later.iter().flatten()).collect();
    let named = |part: &str| said.iter().any(|c| c.contains("Bearer") && c.contains(part));
    let endpoints: Vec<_> =
        [("{token}/", &hosts.token), ("{token2}/", &hosts.token2), ("{registry}/", &hosts.registry)]
            .into_iter()
            .filter(|(part, _)| named(part))
            .map(|(_, host)| host)
            .collect();
    match site.who {
        Who::Nobody => {}
        Who::RegistryToken => allowed.push(own_token(&hosts.registry, "registry-token")),
        Who::Password => {
            allowed.extend(endpoints.iter().copied().map(basic));
            if said.iter().any(|c| c.contains("Basic")) {
                allowed.push(basic(&hosts.registry));
            }
        }
        Who::RefreshToken => allowed.extend(endpoints.iter().copied().map(refresh)),
    }
    if matches!(site.who, Who::Password | Who::RefreshToken) && !endpoints.is_empty() {
        allowed.push(own_token(&hosts.registry, "token"));
    }
    let seen: Vec<_> = servers.iter().flat_map(Server::seen).collect();
    let wrong = violations(&seen, &allowed);
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    let evil = servers.iter().find(|server| server.host == hosts.evil).unwrap();
    assert_eq!(secret::find(&evil.raw()), None, "{name}: the collector has a secret");
    assert_eq!(
        evil.connections() > 0,
        site.reaches_evil,
        "{name}: {} connections to the collector",
        evil.connections()
    );
    let asks_evil = evil.seen().iter().any(|seen| seen.path().starts_with("/token"));
    assert!(!asks_evil, "{name}: the collector was asked for a token");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_go_where_they_are_meant_to_and_nowhere_else() {
    let table = table();
    assert!(table.len() > 80, "{} scenarios", table.len());
    // A few at a time: they wait more than they work.
    futures_util::stream::iter(&table).for_each_concurrent(8, |site| play(site, None)).await;
}

/// The same over TLS, with an authority that `hosts.toml` names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_do_they_over_tls() {
    let table = [table(), downgrades()].concat();
    futures_util::stream::iter(&table).for_each_concurrent(8, |site| play(site, Some(Tls::Good))).await;
}
