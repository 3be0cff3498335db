//! The golden image.
