//! Removes directories that a container has filled. It may have nested them deeper than a stack or the limit of open files allows, and have given
//! them names that make paths too long: nothing here is recursive, and no path is longer than three names below the top.

use std::fs;
use std::io;
use std::path::Path;

/// Removes a directory and all that is in it; what is gone already is no error. Nobody else may write into it meanwhile.
pub(super) fn tree(top: &Path) -> io::Result<()> {
    let mut number = 0_u64;
    loop {
        let Some(list) = gone_is_fine(fs::read_dir(top))? else { return Ok(()) };
        let mut empty = true;
        for entry in list {
            let entry = entry?;
            empty = false;
            if !entry.file_type()?.is_dir() {
                gone_is_fine(fs::remove_file(entry.path()))?;
            } else if fs::remove_dir(entry.path()).is_err() {
                raise(top, &entry.path(), &mut number)?;
                gone_is_fine(fs::remove_dir(entry.path()))?;
            }
        }
        if empty {
            return gone_is_fine(fs::remove_dir(top)).map(drop);
        }
    }
}

/// Empties a directory: files are removed, directories are moved up to the top, where they are found next.
fn raise(top: &Path, dir: &Path, number: &mut u64) -> io::Result<()> {
    let Some(list) = gone_is_fine(fs::read_dir(dir))? else { return Ok(()) };
    for entry in list {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            gone_is_fine(fs::remove_file(entry.path()))?;
        } else if fs::remove_dir(entry.path()).is_err() {
            loop {
                *number += 1;
                match fs::rename(entry.path(), top.join(format!(".removed-{number}"))) {
                    // Of an earlier, interrupted removal.
                    Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                    moved => break gone_is_fine(moved).map(drop)?,
                }
            }
        }
    }
    Ok(())
}

fn gone_is_fine<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_too_deep_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (top, outside) = (dir.path().join("top"), dir.path().join("outside"));
        fs::create_dir_all(top.join("a")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "").unwrap();
        std::os::unix::fs::symlink(&outside, top.join("a/link")).unwrap();
        fs::create_dir_all(top.join(".removed-1/x/y")).unwrap();
        fs::write(top.join("a/file"), "").unwrap();
        // Deeper than the limit of open files, and longer than any path may be: made from the inside out.
        let name = "n".repeat(200);
        let mut inner = top.join("inner");
        fs::create_dir(&inner).unwrap();
        for n in 0..3000 {
            let outer = top.join(format!("o{n}"));
            fs::create_dir(&outer).unwrap();
            fs::rename(&inner, outer.join(&name)).unwrap();
            inner = outer;
        }
        tree(&top).unwrap();
        assert!(!top.exists() && outside.join("kept").exists());
        tree(&top).unwrap();
    }
}
