//! `controlplane keys`: new keys, and how things stand. Works on the database and the key file, with servers running or not.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::model::WorkspaceId;
use crate::store::{SharedStore, StoreError};
use crate::vault::keyring::Keyring;
use crate::vault::rotation::{DataReport, DataScope, KekMode, KekReport};
use crate::vault::status::KeyStatus;
use crate::vault::{Vault, VaultError};

/// Where key encryption keys are: of the server and of `keys`.
#[derive(Debug, Clone, Default, Args)]
pub struct KekArgs {
    /// File with the key encryption keys (mode 0600), or /dev/fd/N
    ///
    /// A line a key: `<id> <base64 of 32 bytes>`, the first one is active; or exactly 32 random bytes. Without it a key is made next
    /// to the embedded database at the first start.
    #[arg(long, value_name = "FILE")]
    pub kek_file: Option<PathBuf>,
}

impl KekArgs {
    /// Reads the keys, or makes the first one of the embedded default. `data_directory`: of the embedded database.
    ///
    /// # Errors
    /// [`VaultError::KeyFile`]: also where there is neither a file nor a data directory.
    pub async fn keyring(
        &self,
        store: &SharedStore,
        data_directory: Option<&Path>,
    ) -> Result<Keyring, VaultError> {
        match (&self.kek_file, data_directory) {
            (Some(file), _) => Keyring::open(file),
            (None, Some(directory)) => Keyring::open_or_generate(directory, store.has_data_keys().await?),
            (None, None) => Err(VaultError::KeyFile(
                "no key file: several servers share this database, and must share their key encryption key; give all the same --kek-file"
                    .to_owned(),
            )),
        }
    }
}

/// `controlplane keys …`.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Makes a new key encryption key and wraps all data keys with it
    ///
    /// Servers go on. A rotation that was killed is gone on with. A backup of the database needs the key file of its time.
    #[command(after_help = "Where hosts have copies of the key file:\n  \
        controlplane keys rotate --prepare    # copy the file to all hosts\n  \
        controlplane keys rotate --keep-old   # copy it again\n  \
        controlplane keys rotate              # copy it again")]
    Rotate {
        /// Only put the new key into the file
        #[arg(long, conflicts_with = "keep_old")]
        prepare: bool,
        /// Leave old keys in the file
        #[arg(long)]
        keep_old: bool,
    },
    /// Gives workspaces new data keys and seals all secrets anew
    RotateData {
        /// Only this workspace (name or id)
        #[arg(long)]
        workspace: Option<String>,
        /// Make no new keys: only seal anew what is under old ones
        #[arg(long, conflicts_with = "workspace")]
        sweep: bool,
    },
    /// Shows keys and what needs them
    Status,
}

/// What a command has done, for people (`Display`) and programs (JSON).
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum KeysReport {
    /// Of `rotate`.
    Kek(KekReport),
    /// Of `rotate-data`.
    Data(DataReport),
    /// Of `status`.
    Status(KeyStatus),
}

impl KeysCommand {
    /// Does it.
    ///
    /// # Errors
    /// See [`VaultError`]; [`VaultError::exit_code`] is what to exit with.
    pub async fn run(&self, vault: &Vault, store: &SharedStore) -> Result<KeysReport, VaultError> {
        match self {
            Self::Rotate { prepare, keep_old } => {
                let mode = match (prepare, keep_old) {
                    (true, _) => KekMode::Prepare,
                    (false, true) => KekMode::KeepOld,
                    (false, false) => KekMode::Whole,
                };
                vault.rotate_kek(mode).await.map(KeysReport::Kek)
            }
            Self::RotateData { workspace, sweep } => {
                let scope = match workspace {
                    Some(name) => DataScope::Workspace(find(store, name).await?),
                    None if *sweep => DataScope::Sweep,
                    None => DataScope::All,
                };
                vault.rotate_data_keys(scope).await.map(KeysReport::Data)
            }
            Self::Status => vault.key_status().await.map(KeysReport::Status),
        }
    }
}

async fn find(store: &SharedStore, name: &str) -> Result<WorkspaceId, VaultError> {
    let workspace = store.workspace(name).await?;
    Ok(workspace.ok_or(StoreError::NotFound("workspace"))?.workspace_id)
}

impl KeysReport {
    /// Writes it: lines for people, or one JSON document.
    ///
    /// # Errors
    /// Of the writer.
    pub fn write(&self, out: &mut impl Write, json: bool) -> std::io::Result<()> {
        if json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        match self {
            Self::Kek(report) => write_kek(out, report),
            Self::Data(report) => {
                writeln!(out, "new data keys     {}", report.made)?;
                writeln!(out, "secrets resealed  {}", report.resealed)?;
                writeln!(out, "old keys deleted  {}", report.deleted)?;
                for secret in &report.unopened {
                    writeln!(out, "does not open     {secret}")?;
                }
                Ok(())
            }
            Self::Status(status) => write_status(out, status),
        }
    }
}

fn write_kek(out: &mut impl Write, report: &KekReport) -> std::io::Result<()> {
    if report.resumed {
        writeln!(out, "went on with a rotation that had not ended")?;
    }
    writeln!(out, "key encryption key  {}", report.kek_id)?;
    writeln!(out, "data keys rewrapped {}", report.rewrapped)?;
    for old in &report.dropped {
        writeln!(out, "taken out of file   {old}")?;
    }
    Ok(())
}

fn write_status(out: &mut impl Write, status: &KeyStatus) -> std::io::Result<()> {
    writeln!(out, "key file {}", status.key_file)?;
    writeln!(out, "{:<22} {:<8} {:>9}", "KEY ENCRYPTION KEY", "ROLE", "DATA KEYS")?;
    for kek in &status.keks {
        writeln!(out, "{:<22} {:<8} {:>9}", kek.kek_id, kek.role, kek.data_keys)?;
    }
    writeln!(out, "secrets under old data keys: {}", status.secrets_under_old_keys)
}

#[cfg(test)]
mod tests;
