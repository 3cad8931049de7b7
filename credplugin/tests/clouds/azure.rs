//! Azure: a service principal's secret buys a token from Microsoft, this a refresh token from the registry, and that pulls.

use credplugin::{Code, Endpoints};
use fixtures::cloud::ACR_USER;
use fixtures::images;
use fixtures::secret::{find, secret};
use serde_json::json;

use crate::support::{ACR, Clouds, GAR, ask, assert_lives, basic, fails, request};

/// Id, secret and tenant of the application that [`Clouds::entra`] knows.
fn principal(clouds: &Clouds) -> [(&'static str, String); 3] {
    [
        ("AZURE_CLIENT_ID", clouds.entra.client_id()),
        ("AZURE_CLIENT_SECRET", clouds.entra.client_secret()),
        ("AZURE_TENANT_ID", clouds.entra.tenant()),
    ]
}

fn with(registry: &str, principal: &[(&'static str, String)]) -> credplugin::ContainerRequest {
    let pairs: Vec<_> = principal.iter().map(|(key, value)| (*key, value.as_str())).collect();
    request(registry, "azure", &pairs)
}

#[tokio::test]
async fn a_secret_becomes_a_refresh_token_and_each_host_sees_its_own() {
    let clouds = Clouds::start();
    let principal = principal(&clouds);
    let answer = ask(ACR, &with(ACR, &principal), &clouds.endpoints()).await.unwrap();
    assert_eq!(basic(&answer), (ACR_USER, &*clouds.acr.refresh_token()));
    assert_lives(&answer, 3 * 3600);
    clouds.assert_only(&[clouds.entra.server(), clouds.acr.server()]);

    let (login, exchange) = (clouds.entra.server().log(), clouds.acr.server().log());
    assert_eq!((login.len(), exchange.len()), (1, 1));
    assert_eq!(login[0].form("client_secret").as_ref(), Some(&principal[1].1));
    assert_eq!(exchange[0].form("service").as_deref(), Some(ACR));
    // The secret stays with Microsoft; the exchange gets the token, in one field, and nothing else that was planted.
    let told = String::from_utf8(exchange[0].bytes()).unwrap();
    assert!(!told.contains(&principal[1].1), "the client secret went to the registry");
    let token = exchange[0].form("access_token").unwrap();
    assert_eq!(find(told.replace(&token, "").as_bytes()), None);
}

/// The token that comes out of it is good for pulling, at the registry's own token endpoint and at Azure's.
#[tokio::test]
async fn an_image_can_be_pulled_with_it() {
    let clouds = Clouds::start();
    let registry = clouds.acr.registry();
    registry.push(&images::small(), "team/app", "1");
    let host = registry.addr().to_string();
    let answer = ask(&host, &with(&host, &principal(&clouds)), &clouds.endpoints()).await.unwrap();
    let (user, password) = basic(&answer);

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let manifest = format!("http://{host}/v2/team/app/manifests/1");
    assert_eq!(client.get(&manifest).send().await.unwrap().status(), 401);
    let query = format!("service={host}&scope=repository:team/app:pull");
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("grant_type", "refresh_token"), ("refresh_token", password)])
        .extend_pairs([("service", &*host), ("scope", "repository:team/app:pull")])
        .finish();
    let azure = format!("{}/oauth2/token", clouds.acr.server().url());
    for request in [
        client.get(format!("http://{host}/token?{query}")).basic_auth(user, Some(password)),
        client.get(format!("{azure}?{query}")).basic_auth(user, Some(password)),
        client.post(&azure).header("content-type", "application/x-www-form-urlencoded").body(form),
    ] {
        let token = request.send().await.unwrap().bytes().await.unwrap();
        let token: serde_json::Value = serde_json::from_slice(&token).unwrap();
        let token = token["access_token"].as_str().unwrap_or_else(|| panic!("{token}"));
        assert_eq!(client.get(&manifest).bearer_auth(token).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn wrong_expired_and_unknown_principals_are_denied_with_microsofts_number() {
    let clouds = Clouds::start();
    let good = principal(&clouds);
    let new = clouds.entra.rotate();
    let changed = |key: &str, value: &str| {
        let mut principal = good.clone();
        principal.iter_mut().filter(|(k, _)| *k == key).for_each(|(_, v)| *v = value.into());
        principal
    };
    for (principal, number) in [
        (good.clone(), "AADSTS7000222"),
        (changed("AZURE_CLIENT_SECRET", &secret("wrong azure secret")), "AADSTS7000215"),
        (changed("AZURE_CLIENT_ID", "00000000-0000-0000-0000-000000000001"), "AADSTS700016"),
        (changed("AZURE_TENANT_ID", "00000000-0000-0000-0000-000000000002"), "AADSTS90002"),
    ] {
        let error = fails(ask(ACR, &with(ACR, &principal), &clouds.endpoints()).await, Code::Denied);
        assert!(error.message.contains(number), "no {number}: {}", error.message);
    }
    // Nobody went on to the registry.
    clouds.assert_only(&[clouds.entra.server()]);
    ask(ACR, &with(ACR, &changed("AZURE_CLIENT_SECRET", &new)), &clouds.endpoints()).await.unwrap();
}

/// A secret with all that a form must escape, and a tenant that would be a path.
#[tokio::test]
async fn values_arrive_as_they_are_or_not_at_all() {
    let clouds = Clouds::start();
    let good = principal(&clouds);
    for odd in [" s p a c e ", "a+b&c=d%41", "ünïcode~_-.", "\"quoted\\", "x\u{2028}y"] {
        let odd = format!("{}{odd}", secret("odd"));
        let mut principal = good.clone();
        principal[1].1.clone_from(&odd);
        clouds.entra.server().reset_log();
        fails(ask(ACR, &with(ACR, &principal), &clouds.endpoints()).await, Code::Denied);
        assert_eq!(clouds.entra.server().log()[0].form("client_secret"), Some(odd));
    }
    clouds.entra.server().reset_log();
    for tenant in ["../../x", "a/b", "x?y=z", "x#y", "a\r\nb", "", ".", "..", "@evil.example", "a b"] {
        let mut principal = good.clone();
        principal[2].1 = tenant.into();
        let error = fails(ask(ACR, &with(ACR, &principal), &clouds.endpoints()).await, Code::BadRequest);
        assert!(error.message.contains("AZURE_TENANT_ID"), "{tenant:?}: {}", error.message);
    }
    clouds.assert_only(&[]);
}

#[tokio::test]
async fn the_refresh_tokens_life_is_told_by_the_registrys_clock() {
    let clouds = Clouds::start();
    let request = with(ACR, &principal(&clouds));
    for (fast, lifetime, want) in [
        (0, 600, 600),
        (3600, 600, 600),
        (-3600, 600, 600),
        (0, 315_360_000, 43_200),
        (0, -10, 60),
        (-7200, 0, 60),
    ] {
        clouds.acr.server().set_clock(fast);
        clouds.acr.set_lifetime(lifetime);
        let answer = ask(ACR, &request, &clouds.endpoints()).await.unwrap();
        assert_lives(&answer, want);
    }
}

#[tokio::test]
async fn half_a_principal_and_other_hosts_get_nothing() {
    let clouds = Clouds::start();
    let good = principal(&clouds);
    for missing in 0..3 {
        let mut principal = good.to_vec();
        let (key, _) = principal.remove(missing);
        let error = fails(ask(ACR, &with(ACR, &principal), &clouds.endpoints()).await, Code::BadRequest);
        assert!(error.message.contains(key), "{key}: {}", error.message);
    }
    for host in
        ["myteam.azurecr.io.evil.example", "azurecr.io", "a.b.azurecr.io.", "registry.example.com", GAR]
    {
        let error = ask(host, &with(host, &good), &clouds.endpoints()).await.unwrap_err();
        assert!(matches!(error.code, Code::NotFound | Code::BadRequest), "{host}: {error:?}");
    }
    // Without an override, loopback is nobody's cloud.
    let error = ask("127.0.0.1:5000", &with("127.0.0.1:5000", &good), &Endpoints::default()).await;
    assert!(matches!(error.unwrap_err().code, Code::NotFound | Code::BadRequest));
    clouds.assert_only(&[]);
}

/// The registry refuses what Microsoft gave: its own word, and no token in it.
#[tokio::test]
async fn a_registry_that_does_not_know_the_principal_denies() {
    let clouds = Clouds::start();
    let other = "another.azurecr.io";
    let error = fails(ask(other, &with(other, &principal(&clouds)), &clouds.endpoints()).await, Code::Denied);
    assert!(error.message.contains("UNAUTHORIZED"), "{}", error.message);
    clouds.entra.set_expires_in(json!("garbage"));
    ask(ACR, &with(ACR, &principal(&clouds)), &clouds.endpoints()).await.unwrap();
}
