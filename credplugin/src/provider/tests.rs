use super::*;

fn request(image: &str, build: &str) -> ContainerRequest {
    ContainerRequest {
        image_credentials: image.into(),
        build_registry_credentials: build.into(),
        ..ContainerRequest::default()
    }
}

async fn get(credentials: &str, image: &str, registry: &str) -> Result<Scheme, Error> {
    get_of(&request(credentials, ""), image, registry).await
}

async fn get_of(request: &ContainerRequest, image: &str, registry: &str) -> Result<Scheme, Error> {
    let ask = Ask { image: image.into(), registry: registry.into(), scope: String::new() };
    answer(request, &ask, &Endpoints::default()).await.map(|answer| answer.scheme)
}

fn basic(scheme: Scheme) -> (String, String) {
    match scheme {
        Scheme::Basic { username, password } => (username, password.expose_secret().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_they_are() {
    let table = [
        (r#"{"USERNAME":"u","PASSWORD":" p s "}"#, "r.example.com/a", "u", " p s "),
        ("u:p:q", "r.example.com:5000/a", "u", "p:q"),
        (
            r#"{"REGISTRY_USERNAME":"r","REGISTRY_PASSWORD":"1","DOCKER_USERNAME":"d","DOCKER_PASSWORD":"2","USERNAME":"u","PASSWORD":"3"}"#,
            "ubuntu",
            "r",
            "1",
        ),
        (r#"{"DOCKER_USERNAME":"d","DOCKER_PASSWORD":"2","USERNAME":"u","PASSWORD":"3"}"#, "a.b/c", "d", "2"),
        (
            r#"{"REGISTRY_USERNAME":"","REGISTRY_PASSWORD":"","USERNAME":"u","PASSWORD":"3"}"#,
            "a.b/c",
            "u",
            "3",
        ),
        (r#"{"NGC_API_KEY":"k"}"#, "nvcr.io/nvidia/cuda:12", "$oauthtoken", "k"),
        (r#"{"GITHUB_TOKEN":"k"}"#, "ghcr.io/o/i", "x-access-token", "k"),
        (r#"{"GITHUB_TOKEN":"k","GITHUB_USERNAME":"me"}"#, "ghcr.io/o/i", "me", "k"),
        (r#"{"GITLAB_TOKEN":"k","GITLAB_USERNAME":"me"}"#, "registry.gitlab.com/o/i", "me", "k"),
        (r#"{"QUAY_TOKEN":"k","QUAY_USERNAME":"o+robot"}"#, "quay.io/o/i", "o+robot", "k"),
        (r#"{"DOCKERHUB_USERNAME":"u","DOCKERHUB_PASSWORD":"p"}"#, "ubuntu", "u", "p"),
        (r#"{"DOCKERHUB_USERNAME":"u","DOCKERHUB_PASSWORD":"p","DOCKERHUB_TOKEN":"t"}"#, "ubuntu", "u", "t"),
        // On this machine, any vendor's.
        (r#"{"NGC_API_KEY":"k"}"#, "127.0.0.1:5000/a", "$oauthtoken", "k"),
        (r#"{"DOCKERHUB_USERNAME":"u","DOCKERHUB_PASSWORD":"p"}"#, "localhost:5000/a", "u", "p"),
        // The vendor's own, out of several.
        (r#"{"NGC_API_KEY":"n","GITHUB_TOKEN":"g"}"#, "ghcr.io/o/i", "x-access-token", "g"),
        // A registry of one's own, named.
        (
            r#"{"registry":"git.example.com:5050","credentials":{"GITLAB_TOKEN":"k","GITLAB_USERNAME":"me"}}"#,
            "git.example.com:5050/g/p",
            "me",
            "k",
        ),
        (
            r#"{"registry":"ghcr.io","type":"basic","credentials":{"GITHUB_USERNAME":"me","GITHUB_TOKEN":"k"}}"#,
            "ghcr.io/o/i",
            "me",
            "k",
        ),
    ];
    for (credentials, image, user, password) in table {
        let registry = parse_registry(image).unwrap();
        let found = basic(get(credentials, image, &registry).await.unwrap());
        assert_eq!(found, (user.to_owned(), password.to_owned()), "{credentials} {image}");
    }
}

#[tokio::test]
async fn who_they_are_not() {
    use Code::{BadRequest, NotFound};
    let table = [
        (
            r#"{"USERNAME":"pl4nted-u"}"#,
            "a.b/c",
            BadRequest,
            "both USERNAME and PASSWORD must be provided together",
        ),
        (
            r#"{"REGISTRY_USERNAME":"u","USERNAME":"u","PASSWORD":"pl4nted-p"}"#,
            "a.b/c",
            BadRequest,
            "both REGISTRY_USERNAME and REGISTRY_PASSWORD must be provided together",
        ),
        // Half of one beside another that is whole: none of them is used.
        (
            r#"{"GITHUB_TOKEN":"pl4nted-t","USERNAME":"u","DOCKERHUB_USERNAME":"x"}"#,
            "ghcr.io/a",
            BadRequest,
            "both USERNAME and PASSWORD must be provided together",
        ),
        (
            r#"{"GITHUB_TOKEN":"pl4nted-t","DOCKERHUB_USERNAME":"x"}"#,
            "ghcr.io/a",
            BadRequest,
            "both DOCKERHUB_USERNAME and DOCKERHUB_PASSWORD must be provided together",
        ),
        (
            r#"{"REGISTRY_USERNAME":"r","REGISTRY_PASSWORD":"pl4nted-p","USERNAME":"u"}"#,
            "a.b/c",
            BadRequest,
            "both USERNAME and PASSWORD must be provided together",
        ),
        (
            r#"{"registry":"a.b","type":"basic","credentials":{"USERNAME":"u","PASSWORD":"pl4nted-p","AZURE_TENANT_ID":"t"}}"#,
            "a.b/c",
            BadRequest,
            "AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID must be provided together",
        ),
        (r#"{"USERNAME":"a:b","PASSWORD":"pl4nted-p"}"#, "a.b/c", BadRequest, "USERNAME: has a colon"),
        (
            r#"{"USERNAME":"u","PASSWORD":"pl4nted-\r\nX: y"}"#,
            "a.b/c",
            BadRequest,
            "PASSWORD: has a line break",
        ),
        (
            r#"{"USERNAME":"pl4nted-\u0000","PASSWORD":"p"}"#,
            "a.b/c",
            BadRequest,
            "USERNAME: has a line break or a NUL",
        ),
        (r#"{"NGC_API_KEY":"pl4nted-\n"}"#, "nvcr.io/a", BadRequest, "NGC_API_KEY: has a line break"),
        (
            r#"{"GITLAB_TOKEN":"pl4nted-k"}"#,
            "registry.gitlab.com/a",
            BadRequest,
            "both GITLAB_USERNAME and GITLAB_TOKEN must",
        ),
        (r#"{"QUAY_TOKEN":"pl4nted-k"}"#, "quay.io/a", BadRequest, "both QUAY_USERNAME and QUAY_TOKEN must"),
        (
            r#"{"GITHUB_USERNAME":"pl4nted-k"}"#,
            "ghcr.io/a",
            BadRequest,
            "both GITHUB_USERNAME and GITHUB_TOKEN must",
        ),
        (
            r#"{"DOCKERHUB_TOKEN":"pl4nted-k"}"#,
            "ubuntu",
            BadRequest,
            "both DOCKERHUB_USERNAME and DOCKERHUB_TOKEN must",
        ),
        (
            r#"{"GITHUB_TOKEN":"pl4nted-k"}"#,
            "r.example.com/a",
            NotFound,
            "GITHUB_TOKEN is for ghcr.io, not for r.example.com",
        ),
        (
            r#"{"GITHUB_TOKEN":"pl4nted-k"}"#,
            "ghcr.io.evil.example/a",
            NotFound,
            "not for ghcr.io.evil.example",
        ),
        (r#"{"GITHUB_TOKEN":"pl4nted-k"}"#, "ubuntu", NotFound, "not for docker.io"),
        (r#"{"NGC_API_KEY":"pl4nted-k"}"#, "nvcr.io:443/a", NotFound, "not for nvcr.io:443"),
        (
            r#"{"DOCKERHUB_USERNAME":"u","DOCKERHUB_PASSWORD":"pl4nted-p"}"#,
            "r.example.com/a",
            NotFound,
            "DOCKERHUB_PASSWORD is for docker.io",
        ),
        (
            r#"{"NGC_API_KEY":"n","GITHUB_TOKEN":"pl4nted-k"}"#,
            "localhost/a",
            BadRequest,
            "tokens of several vendors",
        ),
        (
            r#"{"registry":"ghcr.io","credentials":{"NGC_API_KEY":"pl4nted-k"}}"#,
            "ghcr.io/a",
            NotFound,
            "NGC_API_KEY is for nvcr.io",
        ),
        (
            r#"{"registry":"a.b","type":"token","credentials":{"USERNAME":"u","PASSWORD":"pl4nted-p"}}"#,
            "a.b/c",
            BadRequest,
            "none of NGC_API_KEY",
        ),
        (
            r#"{"registry":"a.b","type":"basic","credentials":{}}"#,
            "a.b/c",
            BadRequest,
            "USERNAME not found or empty",
        ),
        (
            r#"{"registry":"a.b","type":"basic","credentials":{"TOKEN":"pl4nted-t"}}"#,
            "a.b/c",
            BadRequest,
            "USERNAME not found or empty",
        ),
        (
            r#"{"registry":"a.b","type":"public","credentials":{"USERNAME":"u","PASSWORD":"pl4nted-p"}}"#,
            "a.b/c",
            BadRequest,
            "type",
        ),
        (
            r#"{"AWS_ACCESS_KEY_ID":"pl4nted-i","AWS_SECRET_ACCESS_KEY":"pl4nted-s"}"#,
            "secret.example.com/a",
            NotFound,
            "not for secret.example.com",
        ),
        (r#"{"GCP_ACCESS_TOKEN":"pl4nted-t"}"#, "gcr.io.evil/a", NotFound, "not for gcr.io.evil"),
        ("pl4nted-garbage", "a.b/c", BadRequest, "image_credentials: "),
        (r#"{"SOMETHING":"pl4nted-t"}"#, "a.b/c", BadRequest, "cannot tell"),
    ];
    for (credentials, image, code, message) in table {
        let registry = parse_registry(image).unwrap();
        let error = get(credentials, image, &registry).await.unwrap_err();
        assert_eq!(error.code, code, "{credentials} {image}: {}", error.message);
        assert!(error.message.contains(message), "{credentials} {image}: {}", error.message);
        assert!(!error.message.contains("pl4nted-"), "{}", error.message);
    }
}

#[tokio::test]
async fn long_values_are_kept_or_refused() {
    let whole = |length: usize| format!("u:{}", "p".repeat(length));
    let (_, password) = basic(get(&whole(MAX_LINE), "a.b/c", "a.b").await.unwrap());
    assert_eq!(password.len(), MAX_LINE);
    for length in [MAX_LINE + 1, 64 << 10] {
        let error = get(&whole(length), "a.b/c", "a.b").await.unwrap_err();
        let expected = (Code::BadRequest, "PASSWORD: is longer than 16384 bytes");
        assert_eq!((error.code, error.message.as_str()), expected);
    }
    // What is not used is nobody's business.
    let beside = format!(r#"{{"USERNAME":"u","PASSWORD":"p","OTHER":"{}"}}"#, "x".repeat(64 << 10));
    assert_eq!(basic(get(&beside, "a.b/c", "a.b").await.unwrap()).1, "p");
    let long = "x".repeat(64 << 10);
    for (key, credentials) in [
        ("AWS_SECRET_ACCESS_KEY", format!(r#"{{"AWS_ACCESS_KEY_ID":"i","AWS_SECRET_ACCESS_KEY":"{long}"}}"#)),
        ("GCP_ACCESS_TOKEN", format!(r#"{{"GCP_ACCESS_TOKEN":"{long}"}}"#)),
        ("GOOGLE_APPLICATION_CREDENTIALS", format!(r#"{{"GOOGLE_APPLICATION_CREDENTIALS":"{{{long}"}}"#)),
    ] {
        let host =
            if key.starts_with('A') { "123456789012.dkr.ecr.eu-west-1.amazonaws.com" } else { "gcr.io" };
        let error = get(&credentials, &format!("{host}/a"), host).await.unwrap_err();
        assert_eq!(error.code, Code::BadRequest);
        assert!(error.message.starts_with(&format!("{key}: ")), "{}", error.message);
        assert!(error.message.contains("is longer than"), "{}", error.message);
    }
}

#[tokio::test]
async fn which_registry() {
    let wrapped =
        r#"{"registry":"https://index.docker.io/v1/","credentials":{"USERNAME":"u","PASSWORD":"pl4nted-p"}}"#;
    let flat = r#"{"USERNAME":"u","PASSWORD":"pl4nted-p"}"#;
    for (credentials, image, registry) in [
        (wrapped, "ubuntu", "docker.io"),
        (wrapped, "ubuntu", "registry-1.docker.io"),
        (wrapped, "ubuntu", ""),
        (wrapped, "", "docker.io"),
        (flat, "R.example.com:5000/a", "r.example.com:5000"),
    ] {
        assert_eq!(basic(get(credentials, image, registry).await.unwrap()).0, "u", "{image} {registry}");
    }
    for (credentials, image, registry, message) in [
        (
            wrapped,
            "r.example.com/a",
            "r.example.com",
            "image_credentials are for docker.io, not for r.example.com",
        ),
        (
            wrapped,
            "docker.io:443/a",
            "docker.io:443",
            "image_credentials are for docker.io, not for docker.io:443",
        ),
        // A mirror of the image's registry is another registry.
        (
            flat,
            "ubuntu",
            "mirror.example.com",
            "image_credentials are for docker.io, not for mirror.example.com",
        ),
        (
            flat,
            "r.example.com/a",
            "r.example.com:5000",
            "image_credentials are for r.example.com, not for r.example.com:5000",
        ),
    ] {
        let error = get(credentials, image, registry).await.unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (Code::NotFound, message));
    }
    // Whose they are is not for the registry that asks to say.
    for unnamed in [flat, "u:pl4nted-p"] {
        let error = get(unnamed, "", "r.example.com").await.unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        assert!(error.message.contains("do not say which registry they are for"), "{}", error.message);
    }
    assert_eq!(get(flat, "a.b/c", "not a registry").await.unwrap_err().code, Code::BadRequest);
}

#[tokio::test]
async fn none_is_none() {
    let build = r#"{"registry":"r.example.com","credentials":{"USERNAME":"u","PASSWORD":"p"}}"#;
    for (image, build) in [
        ("", ""),
        ("{}", ""),
        (r#"{"registry":"a.b","type":"public","credentials":{}}"#, ""),
        ("", build),
        ("", "u:p"),
        ("", r#"{"USERNAME":"u","PASSWORD":"p"}"#),
    ] {
        let scheme = get_of(&request(image, build), "a.b/c", "a.b").await.unwrap();
        assert!(matches!(scheme, Scheme::None), "{image} {build}: {scheme:?}");
    }
    let found = get_of(&request("", build), "r.example.com/a", "r.example.com").await.unwrap();
    assert_eq!(basic(found).0, "u");
    // They name the mirror that asks, but the image is another registry's, or nobody's.
    for image in ["a.b/c", "ubuntu", "r.example.com:5000/a", ""] {
        let scheme = get_of(&request("", build), image, "r.example.com").await.unwrap();
        assert!(matches!(scheme, Scheme::None), "{image}: {scheme:?}");
    }
    // The image's own win, and what cannot be read is no reason for the others.
    let own = request("me:p", build);
    assert_eq!(basic(get_of(&own, "r.example.com/a", "r.example.com").await.unwrap()).0, "me");
    let broken = request("{", build);
    assert_eq!(get_of(&broken, "r.example.com/a", "r.example.com").await.unwrap_err().code, Code::BadRequest);
    let error = get_of(&request("", "{"), "a.b/c", "a.b").await.unwrap_err();
    assert!(error.message.starts_with("build_registry_credentials"), "{}", error.message);
}

#[tokio::test]
async fn broken_endpoints_are_told_at_once() {
    let endpoints = Endpoints { gcp: Some("http://example.com".into()), ..Endpoints::default() };
    let ask = Ask { image: "a.b/c".into(), registry: "a.b".into(), scope: String::new() };
    let error = answer(&request("", ""), &ask, &endpoints).await.unwrap_err();
    assert_eq!(error.code, Code::BadRequest);
    assert!(error.message.starts_with("endpoints.gcp: "), "{}", error.message);
}

#[test]
fn checks_without_asking() {
    let map = |pairs: &[(&str, &str)]| pairs.iter().copied().collect::<CredentialMap>();
    let aws = map(&[("AWS_ACCESS_KEY_ID", "i"), ("AWS_SECRET_ACCESS_KEY", "s")]);
    let pair = map(&[("USERNAME", "u"), ("PASSWORD", "p")]);
    assert_eq!(check("123456789012.dkr.ecr.us-east-1.amazonaws.com", &aws), Ok(CredentialType::Aws));
    assert_eq!(check("https://index.docker.io/v1/", &pair), Ok(CredentialType::Basic));
    assert_eq!(check("ghcr.io", &map(&[("GITHUB_TOKEN", "t")])), Ok(CredentialType::Token));
    assert_eq!(check("r.example.com", &map(&[])), Ok(CredentialType::Public));
    assert_eq!(check("r.example.com", &aws).unwrap_err().code, Code::NotFound);
    assert_eq!(check("r.example.com", &map(&[("USERNAME", "u")])).unwrap_err().code, Code::BadRequest);
    let endpoints = Endpoints::default();
    let as_public = check_as("r.example.com", Some(CredentialType::Public), &pair, &endpoints);
    assert_eq!(
        as_public.unwrap_err().message,
        "type: it is public, but there are credentials; remove one of both"
    );
    let as_token = check_as("r.example.com", Some(CredentialType::Token), &pair, &endpoints);
    assert_eq!(as_token.unwrap_err().code, Code::BadRequest);
}

/// Callers spawn it.
#[test]
fn the_future_may_change_threads() {
    fn sent<T: Send>(_: T) {}
    let request = request("", "");
    let ask = Ask { image: String::new(), registry: String::new(), scope: String::new() };
    sent(answer(&request, &ask, &Endpoints::default()));
}
