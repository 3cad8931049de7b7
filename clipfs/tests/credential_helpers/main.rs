//! Other people's credential plugins: Debian's `docker-credential-pass` over `pass` and GnuPG, and kubelet plugins that check
//! what they are told. Says at once which program is missing: nothing here is ever skipped.

mod config_files;
mod kubelet;
mod pass;
mod refusals;
mod support;
