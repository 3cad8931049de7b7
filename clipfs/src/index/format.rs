//! On-disk layout: header, section table, fixed-size little-endian records.
