//! What every database must do.
mod containers;
mod logs;
mod outbox;
mod queue;
mod random;
mod replicas;
mod workers;
mod yard;
