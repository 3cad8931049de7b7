//! [`Tokens`] in SQL.

use async_trait::async_trait;
use sqlx::any::AnyRow;

use super::page::{after, limit, page};
use super::row::Columns as _;
use super::sql::{SqlStore, change, transaction};
use super::{Change, Done, Result, StoreError, Tokens};
use crate::model::{Page, PageRequest, Token, TokenId, TokenKind, WorkspaceId};

macro_rules! columns {
    () => {
        "token_id, kind, workspace_id, node, create_time, expire_time"
    };
}

#[async_trait]
impl Tokens for SqlStore {
    async fn create_token(&self, change: &Change<'_>, token: &Token, hash: &[u8; 32]) -> Result<Done<Token>> {
        change!(self, change, |tx| {
            let token = Token { create_time: tx.now, ..token.clone() };
            if let Some(workspace) = &token.workspace_id {
                sqlx::query("SELECT name FROM workspace WHERE workspace_id = $1")
                    .bind(workspace.as_str())
                    .fetch_optional(&mut **tx)
                    .await?
                    .ok_or(StoreError::NotFound("workspace"))?;
            }
            let made = sqlx::query(
                "INSERT INTO token (token_id, kind, workspace_id, node, hash, create_time, expire_time)
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            )
            .bind(token.token_id.as_str())
            .bind(match token.kind {
                TokenKind::Workspace => "workspace",
                TokenKind::Worker => "worker",
                TokenKind::Admin => "admin",
            })
            .bind(token.workspace_id.as_ref().map(WorkspaceId::as_str))
            .bind(token.node.as_deref())
            .bind(hash.as_slice())
            .bind(token.create_time.0)
            .bind(token.expire_time.map(|time| time.0))
            .execute(&mut **tx)
            .await?;
            if made.rows_affected() == 0 {
                return Err(StoreError::Exists("token"));
            }
            Ok(token)
        })
    }

    async fn token_by_hash(&self, hash: &[u8; 32]) -> Result<Option<Token>> {
        let row = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM token WHERE hash = $1 AND (expire_time IS NULL OR expire_time > $2)"
        ))
        .bind(hash.as_slice())
        .bind(self.clock.now().0)
        .fetch_optional(self.readers())
        .await?;
        row.as_ref().map(token).transpose()
    }

    async fn bind_token(&self, token: &TokenId, node: &str) -> Result<bool> {
        const NODE: &str = "SELECT node FROM token WHERE token_id = $1 AND kind = 'worker'";
        let missing = || StoreError::NotFound("token");
        // Nearly always it is bound: that needs no writer.
        let row = sqlx::query(NODE)
            .bind(token.as_str())
            .fetch_optional(self.readers())
            .await?
            .ok_or_else(missing)?;
        if let Some(bound) = row.maybe_text("node")? {
            return Ok(bound == node);
        }
        transaction!(self, |tx| {
            sqlx::query(
                "UPDATE token SET node = $2 WHERE token_id = $1 AND kind = 'worker' AND node IS NULL",
            )
            .bind(token.as_str())
            .bind(node)
            .execute(&mut **tx)
            .await?;
            let row = sqlx::query(NODE)
                .bind(token.as_str())
                .fetch_optional(&mut **tx)
                .await?
                .ok_or_else(missing)?;
            Ok(row.maybe_text("node")?.as_deref() == Some(node))
        })
    }

    async fn revoke_token(&self, change: &Change<'_>, token: &TokenId) -> Result<()> {
        let done = change!(self, change, |tx| {
            let gone = match change.workspace {
                Some(workspace) => sqlx::query("DELETE FROM token WHERE token_id = $1 AND workspace_id = $2")
                    .bind(token.as_str())
                    .bind(workspace.as_str()),
                None => sqlx::query("DELETE FROM token WHERE token_id = $1").bind(token.as_str()),
            };
            if gone.execute(&mut **tx).await?.rows_affected() == 0 {
                return Err(StoreError::NotFound("token"));
            }
            Ok(())
        });
        done.map(Done::into_inner)
    }

    async fn tokens(&self, workspace: Option<&WorkspaceId>, request: &PageRequest) -> Result<Page<Token>> {
        let query = match workspace {
            Some(workspace) => sqlx::query(concat!(
                "SELECT ",
                columns!(),
                " FROM token WHERE workspace_id = $3 AND token_id > $1 ORDER BY token_id LIMIT $2"
            ))
            .bind(after(request))
            .bind(limit(request))
            .bind(workspace.as_str()),
            None => sqlx::query(concat!(
                "SELECT ",
                columns!(),
                " FROM token WHERE token_id > $1 ORDER BY token_id LIMIT $2"
            ))
            .bind(after(request))
            .bind(limit(request)),
        };
        let rows = query.fetch_all(self.readers()).await?;
        page(request, &rows, token, |token| token.token_id.to_string())
    }
}

fn token(row: &AnyRow) -> Result<Token> {
    Ok(Token {
        token_id: row.text("token_id")?.into(),
        kind: row.word("kind")?,
        workspace_id: row.maybe_text("workspace_id")?.map(Into::into),
        node: row.maybe_text("node")?,
        create_time: row.time("create_time")?,
        expire_time: row.maybe_time("expire_time")?,
    })
}
