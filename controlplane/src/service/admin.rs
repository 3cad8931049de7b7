//! Workspaces, tokens, workers: for administrators.

use std::sync::Arc;
use std::time::Duration;

use api::v1;
use api::v1::admin_service_server::AdminService;
use secrecy::ExposeSecret as _;
use tonic::{Request, Response, Status};

use super::caller::new_token;
use super::change::Circumstances;
use super::{Caller, caller, convert, page, validate};
use crate::model::{Clock, Token, TokenId, TokenKind, WorkspaceId};
use crate::store::{Done, SharedStore};

/// The service.
#[derive(Debug, Clone)]
pub struct Admin {
    store: SharedStore,
    clock: Arc<dyn Clock>,
}

impl Admin {
    /// Over a database.
    #[must_use]
    pub fn new(store: SharedStore, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// The workspace of an identity or a name.
    async fn workspace(&self, id_or_name: &str) -> Result<WorkspaceId, Status> {
        validate::name("workspace_id", id_or_name)?;
        let found = self.store.workspace(id_or_name).await?;
        found.map(|found| found.workspace_id).ok_or_else(|| Status::not_found("workspace not found"))
    }

    /// What a new token may do, where, and how long.
    async fn description(&self, request: &v1::CreateTokenRequest) -> Result<Token, Status> {
        let refuse = |text: &str| Err(Status::invalid_argument(text.to_owned()));
        let kind = match request.kind() {
            v1::TokenKind::Workspace => TokenKind::Workspace,
            v1::TokenKind::Worker => TokenKind::Worker,
            v1::TokenKind::Admin => TokenKind::Admin,
            v1::TokenKind::Unspecified => return refuse("kind must be WORKSPACE, WORKER or ADMIN"),
        };
        let workspace_id = match (kind, request.workspace_id.as_str()) {
            (TokenKind::Workspace, "") => return refuse("workspace_id: a workspace token needs one"),
            (TokenKind::Workspace, workspace) => Some(self.workspace(workspace).await?),
            (TokenKind::Worker | TokenKind::Admin, "") => None,
            (TokenKind::Worker | TokenKind::Admin, _) => {
                return refuse("workspace_id: only a workspace token has one");
            }
        };
        let node = match (kind, request.node.as_str()) {
            (_, "") => None,
            (TokenKind::Worker, node) => {
                validate::name("node", node)?;
                Some(node.to_owned())
            }
            _ => return refuse("node: only a worker token has one"),
        };
        let now = self.clock.now();
        Ok(Token {
            token_id: TokenId::generate(),
            kind,
            workspace_id,
            node,
            create_time: now,
            expire_time: (request.ttl_seconds > 0)
                .then(|| now.after(Duration::from_secs(request.ttl_seconds))),
        })
    }
}

/// The caller, an administrator.
fn admin<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = caller(request)?;
    caller.admin()?;
    Ok(caller.clone())
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_workspace(
        &self,
        request: Request<v1::CreateWorkspaceRequest>,
    ) -> Result<Response<v1::Workspace>, Status> {
        let caller = admin(&request)?;
        let mut request = request.into_inner();
        validate::name("name", &request.name)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let circumstances = Circumstances::new(&caller, "CreateWorkspace", &request.name, &key, &request)?;
        let done = self.store.create_workspace(&circumstances.change(), &request.name).await?;
        Ok(Response::new(convert::workspace(done.into_inner())))
    }

    async fn list_workspaces(
        &self,
        request: Request<v1::ListWorkspacesRequest>,
    ) -> Result<Response<v1::ListWorkspacesResponse>, Status> {
        admin(&request)?;
        let request = request.into_inner();
        let list = ["ListWorkspaces"];
        let found =
            self.store.workspaces(&page::request(&list, request.page_size, &request.page_token)?).await?;
        Ok(Response::new(v1::ListWorkspacesResponse {
            workspaces: found.items.into_iter().map(convert::workspace).collect(),
            next_page_token: page::token(&list, found.next.as_deref()),
        }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let caller = admin(&request)?;
        let mut request = request.into_inner();
        let description = self.description(&request).await?;
        let key = std::mem::take(&mut request.idempotency_key);
        let target = description.token_id.to_string();
        let circumstances = Circumstances::new(&caller, "CreateToken", target, &key, &request)?;
        let (secret, hash) = new_token(description.kind).map_err(|error| {
            tracing::error!(%error, "cannot read random bytes");
            Status::internal("the control plane cannot make a token now")
        })?;
        match self.store.create_token(&circumstances.change(), &description, &hash).await? {
            Done::Now(token) => Ok(Response::new(v1::CreateTokenResponse {
                token: Some(convert::token(token)),
                secret: secret.expose_secret().to_owned(),
            })),
            // What is borne is kept nowhere: it cannot be told twice.
            Done::Replayed(token) => Err(Status::already_exists(format!(
                "token {} was made by an earlier call with this idempotency key, and a token is told only once: revoke it and make another",
                token.token_id
            ))),
        }
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let caller = admin(&request)?;
        let mut request = request.into_inner();
        validate::name("token_id", &request.token_id)?;
        let key = std::mem::take(&mut request.idempotency_key);
        let circumstances = Circumstances::new(&caller, "RevokeToken", &request.token_id, &key, &request)?;
        self.store.revoke_token(&circumstances.change(), &TokenId::from(request.token_id.as_str())).await?;
        Ok(Response::new(v1::RevokeTokenResponse {}))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        admin(&request)?;
        let request = request.into_inner();
        let workspace = match request.workspace_id.as_str() {
            "" => None,
            workspace => Some(self.workspace(workspace).await?),
        };
        let list = ["ListTokens", workspace.as_ref().map_or("", WorkspaceId::as_str)];
        let page = page::request(&list, request.page_size, &request.page_token)?;
        let found = self.store.tokens(workspace.as_ref(), &page).await?;
        Ok(Response::new(v1::ListTokensResponse {
            tokens: found.items.into_iter().map(convert::token).collect(),
            next_page_token: page::token(&list, found.next.as_deref()),
        }))
    }

    async fn list_workers(
        &self,
        request: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        admin(&request)?;
        let request = request.into_inner();
        let list = ["ListWorkers"];
        let found =
            self.store.workers(&page::request(&list, request.page_size, &request.page_token)?).await?;
        Ok(Response::new(v1::ListWorkersResponse {
            workers: found.items.into_iter().map(convert::worker).collect(),
            next_page_token: page::token(&list, found.next.as_deref()),
        }))
    }
}
