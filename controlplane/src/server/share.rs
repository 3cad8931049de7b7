//! How much of the server one tenant may take: calls of a workspace, whichever of its tokens they come with; of others' tokens, each
//! by itself. So nobody has to wait because somebody else asks much.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tonic::Status;

use crate::service::Caller;

/// Calls at once that answer and end.
const CALLS: u32 = 256;
/// Streams at once that last.
const STREAMS: u32 = 4096;

/// A workspace or a token; whether streams that last.
type Who = (String, bool);

/// What all tenants have under way.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<Who, u32>>);

/// One call's, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Arc<Shares>,
    who: Who,
}

impl Shares {
    /// A place for one more call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED.
    pub(super) fn take(self: &Arc<Self>, caller: &Caller, lasting: bool) -> Result<Share, Status> {
        let tenant =
            caller.workspace.as_ref().map_or(caller.token_id.as_str(), |workspace| workspace.as_str());
        let who = (tenant.to_owned(), lasting);
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = shares.entry(who.clone()).or_default();
        if *taken >= if lasting { STREAMS } else { CALLS } {
            return Err(Status::resource_exhausted("too many calls of this caller at once; try again later"));
        }
        *taken += 1;
        drop(shares);
        Ok(Share { shares: Arc::clone(self), who })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.shares.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(taken) = shares.get_mut(&self.who) {
            *taken -= 1;
            if *taken == 0 {
                shares.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TokenKind;

    fn caller(token: &str, workspace: Option<&str>) -> Caller {
        Caller {
            token_id: token.into(),
            kind: if workspace.is_some() { TokenKind::Workspace } else { TokenKind::Worker },
            workspace: workspace.map(Into::into),
            node: None,
            pepper: Default::default(),
        }
    }

    #[test]
    fn who_asks_much_is_in_nobody_s_way() {
        let shares = Arc::new(Shares::default());
        let mut taken: Vec<Share> =
            (0..CALLS).map(|_| shares.take(&caller("t", Some("w")), false).expect("a share")).collect();
        let refused = shares.take(&caller("another", Some("w")), false).expect_err("of the same workspace");
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        taken.push(shares.take(&caller("t", Some("w")), true).expect("streams are apart"));
        taken.push(shares.take(&caller("t", Some("x")), false).expect("another workspace"));
        taken.push(shares.take(&caller("n", None), false).expect("a worker"));
        taken.remove(0);
        taken.push(shares.take(&caller("t", Some("w")), false).expect("one has ended"));
        drop(taken);
        assert!(shares.0.lock().expect("not poisoned").is_empty(), "nothing is remembered");
    }
}
