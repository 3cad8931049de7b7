//! Windows: the 32 KiB before a gzip checkpoint, of which usually few bytes matter.

use super::DecodeError;
use super::inflate::{Inflate, Stop};
use super::scan::RawWindow;

/// A window's longest form: deflate's farthest distance.
pub const MAX_WINDOW: usize = 32 << 10;

/// Positions of the window that matter, as runs: `(start, end)`.
pub fn needed(raw: &RawWindow) -> Result<Vec<(usize, usize)>, DecodeError> {
    let low: Vec<u8> = (0..raw.window.len()).map(|at| (at & 0xff) as u8).collect();
    let high: Vec<u8> = (0..raw.window.len()).map(|at| (at >> 8) as u8 | (!(at as u8) & 0x80)).collect();
    let (low, complete) = probe(raw, &low)?;
    if !complete { return Ok(vec![(0, raw.window.len())]); }
    let (high, _) = probe(raw, &high)?;
    let mut needed = vec![false; MAX_WINDOW];
    for (l, h) in low.iter().zip(&high) {
        if l != h { needed[usize::from(h & 0x7f) << 8 | usize::from(*l)] = true; }
    }
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for at in (0..MAX_WINDOW).filter(|at| needed[*at]) {
        match runs.last_mut() { Some(run) if run.1 == at => run.1 += 1, _ => runs.push((at, at + 1)) }
    }
    Ok(runs)
}

fn probe(raw: &RawWindow, window: &[u8]) -> Result<(Vec<u8>, bool), DecodeError> {
    let bad = |reason: &str| DecodeError::Corrupt { format: "gzip", offset: 0, reason: reason.into() };
    let mut inflate = Inflate::new().map_err(bad)?;
    inflate.set_window(window);
    let mut input = &raw.following[..];
    if raw.bit > 0 {
        let Some((first, rest)) = input.split_first() else { return Ok((Vec::new(), false)) };
        inflate.prime(8 - raw.bit, first >> raw.bit);
        input = rest;
    }
    let mut out = vec![0; MAX_WINDOW];
    let mut made = 0;
    while made < out.len() {
        let step = inflate.step(input, &mut out[made..], Stop::Never).map_err(bad)?;
        made += step.produced;
        input = &input[step.consumed..];
        if step.ended || (step.consumed == 0 && step.produced == 0) {
            out.truncate(made);
            return Ok((out, step.ended));
        }
    }
    Ok((out, true))
}

pub fn encode(raw: &RawWindow) -> Result<Vec<u8>, DecodeError> {
    let _ = raw;
    unimplemented!()
}

pub fn decode(encoded: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let _ = encoded;
    unimplemented!()
}
