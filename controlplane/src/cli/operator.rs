//! What the operator does with the database, with servers running or not.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::args::{AuditArgs, GlobalArgs, KeysArgs, MigrateArgs, TokenCommand, WorkspaceCommand};
use super::failure::Failure;
use super::output::Output;
use super::settings::{self, Settings};
use super::show;
use crate::model::{Clock, PageRequest, SystemClock, Token, TokenId, TokenKind, WorkspaceId};
use crate::service::caller::new_token;
use crate::service::{convert, validate};
use crate::store::{self, Change, Housekeeping as _, SharedStore, StoreError};
use crate::vault::Vault;

/// Items of a page.
const PAGE: u32 = 1000;
/// In the audit.
const OPERATOR: &str = "operator";

async fn open(global: &GlobalArgs, settings: &Settings) -> Result<SharedStore, Failure> {
    let url = settings.database(global.database.as_ref());
    let store = store::open(&url, Arc::new(SystemClock)).await?;
    store.ready().await?;
    Ok(store)
}

/// `migrate`.
pub(super) async fn migrate(
    args: MigrateArgs,
    global: &GlobalArgs,
    settings: &Settings,
) -> Result<u8, Failure> {
    let url = settings.database(global.database.as_ref());
    match args.revert {
        None => store::migrate(&url).await?,
        Some(version) => store::revert(&url, version).await?,
    }
    Ok(0)
}

/// `keys`.
pub(super) async fn keys(
    args: KeysArgs,
    global: &GlobalArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let store = open(global, settings).await?;
    let named = args.data_dir.clone().or_else(|| settings.data_dir.clone());
    let directory =
        named.or_else(|| settings::database_directory(&settings.database(global.database.as_ref())));
    let mut kek = args.kek.clone();
    kek.kek_file = kek.kek_file.or_else(|| settings.kek_file.clone());
    let vault = Vault::new(SharedStore::clone(&store), kek.keyring(&store, directory.as_deref()).await?);
    let report = args.command.run(&vault, &store).await?;
    report.write(&mut std::io::stdout().lock(), out.is_json())?;
    Ok(0)
}

/// `workspace`.
pub(super) async fn workspace(
    command: WorkspaceCommand,
    global: &GlobalArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let store = open(global, settings).await?;
    match command {
        WorkspaceCommand::Create { name } => {
            validate::name("the name", &name)?;
            let change = change("CreateWorkspace", None, &name);
            let made = convert::workspace(store.create_workspace(&change, &name).await?.into_inner());
            out.one(&made.workspace_id, &show::workspace(&made))?;
        }
        WorkspaceCommand::Ls => {
            let mut all = Vec::new();
            let mut page = first_page();
            loop {
                let found = store.workspaces(&page).await?;
                all.extend(found.items.into_iter().map(convert::workspace));
                let Some(next) = found.next else { break };
                page.after = Some(next);
            }
            let row = |w: &api::v1::Workspace| {
                vec![w.workspace_id.clone(), w.name.clone(), show::time(w.create_time.as_ref())]
            };
            let rows: Vec<_> = all.iter().map(row).collect();
            out.table(&["ID", "NAME", "CREATED"], &rows, all.iter().map(show::workspace).collect())?;
        }
    }
    Ok(0)
}

/// `token`.
pub(super) async fn token(
    command: TokenCommand,
    global: &GlobalArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let store = open(global, settings).await?;
    match command {
        TokenCommand::Create { workspace, worker, admin: _, node, ttl, out: file } => {
            let workspace_id = match &workspace {
                Some(name) => Some(find(&store, name).await?),
                None => None,
            };
            if let Some(node) = &node {
                validate::name("the node", node)?;
            }
            let now = SystemClock.now();
            let kind = match (&workspace_id, worker) {
                (Some(_), _) => TokenKind::Workspace,
                (None, true) => TokenKind::Worker,
                (None, false) => TokenKind::Admin,
            };
            let token = Token {
                token_id: TokenId::generate(),
                kind,
                workspace_id,
                node,
                create_time: now,
                expire_time: ttl.map(|ttl| now.after(ttl)),
            };
            let (secret, hash) = new_token(kind).map_err(Failure::Runtime)?;
            // First the file: a token that cannot be told must not exist.
            if let Some(file) = &file {
                write_private(file, &secret)?;
            }
            let target = token.token_id.to_string();
            let change = change("CreateToken", token.workspace_id.as_ref(), &target);
            let made = convert::token(store.create_token(&change, &token, &hash).await?.into_inner());
            let mut json = show::token(&made);
            match (&file, out.is_json()) {
                (Some(_), _) => out.one(&made.token_id, &json)?,
                (None, true) => {
                    json["secret"] = secret.expose_secret().into();
                    out.one("", &json)?;
                }
                (None, false) => out.one(secret.expose_secret(), &json)?,
            }
        }
        TokenCommand::Ls { workspace } => {
            let workspace = match &workspace {
                Some(name) => Some(find(&store, name).await?),
                None => None,
            };
            let mut all = Vec::new();
            let mut page = first_page();
            loop {
                let found = store.tokens(workspace.as_ref(), &page).await?;
                all.extend(found.items.into_iter().map(convert::token));
                let Some(next) = found.next else { break };
                page.after = Some(next);
            }
            let rows: Vec<_> = all.iter().map(show::token_row).collect();
            let heads = ["ID", "KIND", "WORKSPACE", "NODE", "CREATED", "EXPIRES"];
            out.table(&heads, &rows, all.iter().map(show::token).collect())?;
        }
        TokenCommand::Revoke { token_id } => {
            let change = change("RevokeToken", None, &token_id);
            store.revoke_token(&change, &TokenId::from(token_id.as_str())).await?;
        }
    }
    Ok(0)
}

/// `audit`.
pub(super) async fn audit(
    args: AuditArgs,
    global: &GlobalArgs,
    settings: &Settings,
    out: Output,
) -> Result<u8, Failure> {
    let store = open(global, settings).await?;
    let workspace = match &args.workspace {
        Some(name) => Some(find(&store, name).await?),
        None => None,
    };
    let lines = store.audited(workspace.as_ref(), args.limit).await?;
    let (mut rows, mut json) = (Vec::new(), Vec::new());
    for (time, actor, action, target, result) in lines {
        let time = show::time(Some(&convert::time(time)));
        json.push(
            json!({ "time": time, "actor": actor, "action": action, "target": target, "result": result }),
        );
        rows.push(vec![time, actor, action, target, result]);
    }
    out.table(&["TIME", "ACTOR", "ACTION", "TARGET", "RESULT"], &rows, json)?;
    Ok(0)
}

const fn first_page() -> PageRequest {
    PageRequest { size: PAGE, after: None }
}

const fn change<'a>(action: &'static str, workspace: Option<&'a WorkspaceId>, target: &'a str) -> Change<'a> {
    Change { actor: OPERATOR, workspace, action, target, key: None }
}

async fn find(store: &SharedStore, name: &str) -> Result<WorkspaceId, Failure> {
    let found = store.workspace(name).await?.ok_or(StoreError::NotFound("workspace"))?;
    Ok(found.workspace_id)
}

/// Writes a token where only this user reads it. A file that is there is replaced, whatever its mode was.
fn write_private(path: &Path, secret: &SecretString) -> Result<(), Failure> {
    let failed = |source| Failure::File { what: "write", path: path.to_owned(), source };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = format!(".token-{}", TokenId::generate());
    let temporary = directory.join(name);
    let write = || {
        let mut file =
            std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{}", secret.expose_secret())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| {
        // What was begun must not stay; if that fails too, the first error is the one to tell.
        let _ = std::fs::remove_file(&temporary);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_s_file_is_private_even_where_another_was() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("t");
        std::fs::write(&path, "old").expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("set");
        write_private(&path, &"new".to_owned().into()).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "new\n");
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("there").count(), 1);
    }
}
