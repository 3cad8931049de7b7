//! The program `credplugin` as its callers see it: documents, exit codes, limits, and real clients of Docker's protocol.

mod docker_clients;
mod documented;
mod kubelet;
mod limits;
mod protocol;
mod run;
