//! Tests of the links over loopback.
