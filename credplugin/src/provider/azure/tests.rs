use super::*;
use crate::Code;
use crate::Endpoints;
use crate::http::tests::{Server, json as answer};

const REGISTRY: &str = "contoso.azurecr.io";

fn keys(tenant: &str) -> CredentialMap {
    [
        ("AZURE_CLIENT_ID", "pl4nted-client"),
        ("AZURE_CLIENT_SECRET", "pl4nted-azure~secret&+ x"),
        ("AZURE_TENANT_ID", tenant),
    ]
    .into_iter()
    .collect()
}

fn plan(registry: &str, keys: &CredentialMap, endpoints: &Endpoints) -> Result<Plan, Error> {
    Plan::new(&Target { registry, named: true, endpoints }, keys)
}

fn at(login: &Server, acr: &Server) -> Endpoints {
    Endpoints { azure: Some(login.url.to_string()), acr: Some(acr.url.to_string()), ..Endpoints::default() }
}

fn form(request: &str) -> Vec<(String, String)> {
    let body = request.split_once("\r\n\r\n").unwrap().1;
    url::form_urlencoded::parse(body.as_bytes()).into_owned().collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A JWT with these claims.
fn jwt(claims: &str) -> String {
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.c2ln", encode(r#"{"alg":"RS256"}"#), encode(claims))
}

#[tokio::test]
async fn exchanges_twice() {
    let date = "Date: Fri, 15 Jan 2027 08:00:00 GMT\r\n";
    for (refresh, life) in [
        (jwt(r#"{"exp":1800010800}"#), 10_800),
        (jwt(r#"{"exp":1}"#), 60),
        (jwt("{}"), 3600),
        (jwt(r#"{"exp":"soon"}"#), 3600),
        ("opaque".to_owned(), 3600),
        ("a.%.c".to_owned(), 3600),
    ] {
        let token = r#"{"token_type":"Bearer","expires_in":3599,"access_token":"pl4nted-entra"}"#;
        let login = Server::new(&[&answer("200 OK", "", token)]).await;
        let acr =
            Server::new(&[&answer("200 OK", date, &format!(r#"{{"refresh_token":"{refresh}"}}"#))]).await;
        let run = plan(REGISTRY, &keys("contoso.example"), &at(&login, &acr)).unwrap();
        let (scheme, valid_for) = run.run(&Http::default()).await.unwrap();
        let Scheme::Basic { username, password } = scheme else { panic!("{scheme:?}") };
        assert_eq!(username, "00000000-0000-0000-0000-000000000000");
        assert_eq!(password.expose_secret(), refresh);
        assert_eq!(valid_for.unwrap().as_secs(), life, "{refresh}");
        let (login, acr) = (login.seen(), acr.seen());
        assert!(login[0].starts_with("POST /contoso.example/oauth2/v2.0/token HTTP/1.1\r\n"), "{}", login[0]);
        assert_eq!(
            form(&login[0]),
            pairs(&[
                ("grant_type", "client_credentials"),
                ("client_id", "pl4nted-client"),
                ("client_secret", "pl4nted-azure~secret&+ x"),
                ("scope", SCOPE),
            ])
        );
        assert!(acr[0].starts_with("POST /oauth2/exchange HTTP/1.1\r\n"), "{}", acr[0]);
        assert_eq!(
            form(&acr[0]),
            pairs(&[
                ("grant_type", "access_token"),
                ("service", REGISTRY),
                ("tenant", "contoso.example"),
                ("access_token", "pl4nted-entra"),
            ])
        );
    }
}

#[tokio::test]
async fn refusals_of_both() {
    let secret = r#"{"error":"invalid_client","error_description":"AADSTS7000215: not pl4nted-azure~secret&+ x.\r\nTrace ID: 1"}"#;
    let login = Server::new(&[&answer("401 Unauthorized", "", secret)]).await;
    let acr = Server::new(&[&answer("200 OK", "", "{}")]).await;
    let run = plan(REGISTRY, &keys("contoso.example"), &at(&login, &acr)).unwrap();
    let error = run.run(&Http::default()).await.err().unwrap();
    assert_eq!(error.code, Code::Denied);
    assert!(
        error.message.ends_with("invalid_client: AADSTS7000215: not [redacted]. Trace ID: 1"),
        "{}",
        error.message
    );
    assert_eq!(acr.seen().len(), 0);

    let login = Server::new(&[&answer("200 OK", "", r#"{"access_token":"pl4nted-entra"}"#)]).await;
    let echo = r#"{"errors":[{"code":"UNAUTHORIZED","message":"bad token pl4nted-entra"}]}"#;
    let acr = Server::new(&[&answer("401 Unauthorized", "", echo)]).await;
    let run = plan(REGISTRY, &keys("contoso.example"), &at(&login, &acr)).unwrap();
    let error = run.run(&Http::default()).await.err().unwrap();
    assert_eq!(error.code, Code::Denied);
    assert!(error.message.ends_with("UNAUTHORIZED: bad token [redacted]"), "{}", error.message);
}

#[test]
fn tenants() {
    for tenant in ["72f988bf-86f1-41af-91ab-2d7cd011db47", "contoso.onmicrosoft.com", "t"] {
        assert!(plan(REGISTRY, &keys(tenant), &Endpoints::default()).is_ok(), "{tenant}");
    }
    let long = "a".repeat(129);
    for tenant in ["..", ".", "a..b", "-", "a/b", "a?b", "a b", "a%2fb", "ä", "a\n", &long] {
        let error = plan(REGISTRY, &keys(tenant), &Endpoints::default()).err().unwrap();
        assert_eq!(error.message, "AZURE_TENANT_ID: is no tenant: a GUID or a domain name", "{tenant:?}");
    }
    let error = plan(REGISTRY, &keys(""), &Endpoints::default()).err().unwrap();
    assert_eq!(error.message, "AZURE_TENANT_ID not found or empty");
}

#[test]
fn registries() {
    let none = Endpoints::default();
    let login = Endpoints { azure: Some("http://127.0.0.1:5".into()), ..Endpoints::default() };
    let both = Endpoints { acr: Some("http://127.0.0.1:6".into()), ..login.clone() };
    let exchange = |registry, endpoints| plan(registry, &keys("t"), endpoints).map(|plan| plan.exchange);
    assert_eq!(exchange(REGISTRY, &none).unwrap().as_str(), "https://contoso.azurecr.io/oauth2/exchange");
    assert_eq!(exchange("127.0.0.1:5000", &both).unwrap().as_str(), "http://127.0.0.1:6/oauth2/exchange");
    for (registry, endpoints, code) in [
        ("127.0.0.1:5000", &none, Code::NotFound),
        ("127.0.0.1:5000", &login, Code::BadRequest),
        ("contoso.azurecr.io.evil.example", &both, Code::NotFound),
        ("r.example.com", &both, Code::NotFound),
    ] {
        assert_eq!(exchange(registry, endpoints).err().unwrap().code, code, "{registry}");
    }
    let government = plan("contoso.azurecr.us", &keys("t"), &none).unwrap();
    assert_eq!(government.login.as_str(), "https://login.microsoftonline.us/t/oauth2/v2.0/token");
}
