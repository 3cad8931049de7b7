use super::*;

const ECR: &str = "123456789012.dkr.ecr.us-east-1.amazonaws.com";

fn map(keys: &[&str]) -> CredentialMap {
    keys.iter()
        .map(|key| match key.strip_suffix('=') {
            Some(key) => (key, ""),
            None => (*key, "pl4nted-kind-1"),
        })
        .collect()
}

#[test]
fn types_have_words() {
    for kind in CredentialType::ALL {
        assert_eq!(kind.to_string().parse(), Ok(kind));
    }
    for word in ["", "Basic", "aws ", "ecr", "none"] {
        assert_eq!(word.parse::<CredentialType>().expect_err(word).code, Code::BadRequest);
    }
}

#[test]
fn keys_tell_the_type_then_the_host() {
    use CredentialType::{Aws, Azure, Basic, Gcp, Public, Token};
    for (registry, keys, expected) in [
        ("r.example.com", &[][..], Public),
        (ECR, &[], Public),
        ("r.example.com", &["USERNAME=", "PASSWORD="], Public),
        ("r.example.com", &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], Aws),
        (
            "r.example.com",
            &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"],
            Aws,
        ),
        ("gcr.io", &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GCP_ACCESS_TOKEN"], Aws),
        ("r.example.com", &["GCP_ACCESS_TOKEN"], Gcp),
        ("r.example.com", &["GCP_PROJECT_ID"], Gcp),
        ("r.example.com", &["GOOGLE_APPLICATION_CREDENTIALS"], Gcp),
        ("r.example.com", &["GCP_ACCESS_TOKEN", "USERNAME", "PASSWORD"], Gcp),
        ("r.example.com", &["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"], Azure),
        ("r.example.com", &["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"], Azure),
        ("r.example.com", &["NGC_API_KEY"], Token),
        ("r.example.com", &["GITHUB_TOKEN"], Token),
        ("r.example.com", &["GITHUB_USERNAME", "GITHUB_TOKEN"], Token),
        ("r.example.com", &["GITLAB_USERNAME", "GITLAB_TOKEN"], Token),
        ("r.example.com", &["QUAY_USERNAME", "QUAY_TOKEN"], Token),
        ("docker.io", &["DOCKERHUB_USERNAME", "DOCKERHUB_TOKEN"], Token),
        ("r.example.com", &["GITHUB_TOKEN", "USERNAME", "PASSWORD"], Token),
        ("docker.io", &["DOCKERHUB_USERNAME", "DOCKERHUB_PASSWORD"], Basic),
        ("r.example.com", &["USERNAME", "PASSWORD"], Basic),
        ("r.example.com", &["DOCKER_USERNAME", "DOCKER_PASSWORD"], Basic),
        ("r.example.com", &["REGISTRY_USERNAME", "REGISTRY_PASSWORD"], Basic),
        (ECR, &["USERNAME", "PASSWORD"], Basic),
        (ECR, &["USERNAME", "PASSWORD", "AWS_REGION"], Basic),
        (ECR, &["AWS_REGION"], Aws),
        ("public.ecr.aws", &["AWS_SESSION_TOKEN"], Aws),
        ("europe-west1-docker.pkg.dev", &["KEY"], Gcp),
        ("myregistry.azurecr.io", &["AZURE_TENANT_ID"], Azure),
        ("ghcr.io", &["GITHUB_USERNAME"], Token),
        ("registry.gitlab.com", &["KEY"], Token),
        ("quay.io", &["KEY"], Token),
        ("nvcr.io", &["KEY"], Token),
        ("docker.io", &["KEY"], Basic),
    ] {
        assert_eq!(detect_type(registry, &map(keys)), Ok(expected), "{registry} {keys:?}");
    }
}

#[test]
fn halves_are_refused_beside_what_is_whole() {
    let whole = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    for (keys, says) in [
        (
            &["REGISTRY_USERNAME"][..],
            "both REGISTRY_USERNAME and REGISTRY_PASSWORD must be provided together",
        ),
        (&["DOCKER_PASSWORD"], "both DOCKER_USERNAME and DOCKER_PASSWORD must be provided together"),
        (&["USERNAME", "PASSWORD="], "both USERNAME and PASSWORD must be provided together"),
        (&["PASSWORD"], "both USERNAME and PASSWORD must be provided together"),
        (&["DOCKERHUB_USERNAME"], "both DOCKERHUB_USERNAME and DOCKERHUB_PASSWORD must be provided together"),
        (&["DOCKERHUB_PASSWORD"], "both DOCKERHUB_USERNAME and DOCKERHUB_PASSWORD must be provided together"),
        (&["DOCKERHUB_PASSWORD", "DOCKERHUB_TOKEN"], "both DOCKERHUB_USERNAME and DOCKERHUB_PASSWORD must"),
        (&["GITHUB_USERNAME"], "both GITHUB_USERNAME and GITHUB_TOKEN must be provided together"),
        (&["GITLAB_USERNAME"], "both GITLAB_USERNAME and GITLAB_TOKEN must be provided together"),
        (&["QUAY_USERNAME", "GITHUB_TOKEN"], "both QUAY_USERNAME and QUAY_TOKEN must be provided together"),
        (&["AZURE_CLIENT_ID"], "both AZURE_CLIENT_ID and AZURE_CLIENT_SECRET must be provided together"),
        (&["AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"], "both AZURE_CLIENT_ID and AZURE_CLIENT_SECRET must"),
        (&["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"], "AZURE_TENANT_ID not found or empty"),
        (
            &["AZURE_TENANT_ID"],
            "AZURE_CLIENT_ID, AZURE_CLIENT_SECRET and AZURE_TENANT_ID must be provided together",
        ),
    ] {
        let error = check_halves(&map(&[&whole, keys].concat())).expect_err(says);
        assert!(error.code == Code::BadRequest && error.message.starts_with(says), "{}", error.message);
    }
    for (keys, says) in [
        (&["AWS_ACCESS_KEY_ID"][..], "both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must"),
        (&["AWS_SESSION_TOKEN"], "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN must"),
    ] {
        let error = check_halves(&map(&[&["USERNAME", "PASSWORD"], keys].concat())).expect_err(says);
        assert!(error.code == Code::BadRequest && error.message.starts_with(says), "{}", error.message);
    }
    for keys in [
        &[][..],
        &["USERNAME=", "PASSWORD="],
        &["DOCKERHUB_USERNAME", "DOCKERHUB_TOKEN"],
        &["DOCKERHUB_USERNAME", "DOCKERHUB_PASSWORD", "DOCKERHUB_TOKEN"],
        &["GITHUB_TOKEN", "GITLAB_TOKEN", "QUAY_TOKEN", "NGC_API_KEY"],
        &["GITHUB_USERNAME", "GITHUB_TOKEN"],
        &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
        &["AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET", "AZURE_TENANT_ID"],
        &["AWS_REGION", "GCP_PROJECT_ID", "SOMETHING"],
    ] {
        assert_eq!(check_halves(&map(keys)), Ok(()), "{keys:?}");
    }
}

#[test]
fn keys_in_messages_are_short_and_plain() {
    let error = detect_type("r.example.com", &map(&["FOO", "BAR", "EMPTY="])).expect_err("unknown");
    assert!(error.message.contains(" from their keys (BAR, FOO); "), "{}", error.message);
    for (keys, shown) in [
        (&["a\nb"][..], "(unprintable key)"),
        (&["\u{202e}abc"], "(unprintable key)"),
        (&["\u{1b}[31m", "A"], "(unprintable key), A"),
        (&["a b"], "(unprintable key)"),
        (&["A", "B", "C", "D", "E", "F", "G", "H", "I", "J"], "A, B, C, D, E, F, G, H and 2 more"),
    ] {
        assert_eq!(key_names(&map(keys)), shown);
    }
    assert_eq!(key_names(&[("", "pl4nted-kind-1")].into_iter().collect()), "(empty key)");
    assert_eq!(key_names(&map(&[&"K".repeat(100_000)])), format!("{}…", "K".repeat(32)));
}

#[test]
fn what_nobody_knows_is_an_error() {
    for (registry, keys, says) in [
        (
            "secret.example.com",
            &["AWS_REGION"][..],
            "cannot tell what the credentials for secret.example.com are",
        ),
        ("evil.example/amazonaws.com/x", &["AWS_REGION"], "cannot tell"),
        ("gcr.io.evil", &["KEY"], "cannot tell"),
        ("r.example.com", &["username", "password"], "cannot tell"),
        (
            "r.example.com",
            &["AWS_ACCESS_KEY_ID"],
            "both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY must be provided together",
        ),
        (
            "r.example.com",
            &["AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY"],
            "both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        (
            ECR,
            &["AWS_SECRET_ACCESS_KEY", "USERNAME", "PASSWORD"],
            "both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        ("r.example.com", &["AZURE_CLIENT_SECRET"], "both AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"),
        ("r.example.com", &["USERNAME"], "both USERNAME and PASSWORD must be provided together"),
        ("r.example.com", &["PASSWORD"], "both USERNAME and PASSWORD must be provided together"),
        (
            "r.example.com",
            &["REGISTRY_USERNAME", "DOCKER_PASSWORD"],
            "both REGISTRY_USERNAME and REGISTRY_PASSWORD",
        ),
        ("docker.io", &["DOCKERHUB_USERNAME"], "both DOCKERHUB_USERNAME and DOCKERHUB_PASSWORD"),
    ] {
        let error = detect_type(registry, &map(keys)).expect_err(registry);
        assert_eq!(error.code, Code::BadRequest);
        assert!(error.message.starts_with(says), "{}", error.message);
        assert!(!error.message.contains("pl4nted-"), "{}", error.message);
    }
}
