//! `Debug` of messages that hold a secret's value: what they are of, never what they hold. `build.rs` lists the same ones.

use std::fmt;

use crate::v1;

macro_rules! redacted {
    ($($name:ident { $($shown:ident),* }),+ $(,)?) => {$(
        impl fmt::Debug for v1::$name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))$(.field(stringify!($shown), &self.$shown))*.finish_non_exhaustive()
            }
        }
    )+};
}

redacted! {
    ContainerRequest { container_id, workspace_id, image_id },
    CreateImageRequest { base_image, image_id },
    CreateSecretRequest { name },
    UpdateSecretRequest {},
    CreateTokenResponse { token },
    RunContainerRequest { container_id },
    Dispatch { lease, image, digest },
    CredentialUpdate { lease },
    FetchCredentialsResponse {},
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_is_shown() {
        let planted = "pl4nted-debug-1";
        let request = v1::ContainerRequest {
            env: vec![planted.into()],
            image_credentials: planted.into(),
            build_registry_credentials: planted.into(),
            ..Default::default()
        };
        let dispatch = v1::Dispatch { request: Some(request.clone()), ..Default::default() };
        let message = v1::ControlMessage {
            delivery: 1,
            message: Some(v1::control_message::Message::Dispatch(dispatch)),
        };
        let update = v1::CredentialUpdate { image_credentials: planted.into(), ..Default::default() };
        let fetched = v1::FetchCredentialsResponse { image_credentials: planted.into() };
        let text = format!("{request:?} {message:?} {update:?} {fetched:?}");
        assert!(!text.contains("pl4nted"), "{text}");
    }
}
