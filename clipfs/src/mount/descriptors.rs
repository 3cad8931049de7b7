//! What our caller left open is not for our children.
//!
//! Shells and supervisors leak descriptors (locks, pipes). A keeper that held one would keep the lock until the image is
//! unmounted, and a plugin could read it. What clipfs opens itself is close-on-exec from the start.

/// Marks every descriptor but standard input, output and error close-on-exec: open for this process (`/dev/fd/63` is a way
/// to hand a request over), closed for the processes it starts. Called first thing.
pub fn keep_from_children() {
    // SAFETY: sets a flag on descriptors, closes none and touches no memory. Nothing else runs yet that could count on a
    // descriptor being inherited.
    #[expect(unsafe_code, reason = "neither std nor nix has close_range(2)")]
    let outcome = unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    if outcome != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "descriptors of the caller are inherited");
    }
}
