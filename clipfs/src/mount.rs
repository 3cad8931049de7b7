//! One mount's life: keeper and server, run directory, status, unmounting.
