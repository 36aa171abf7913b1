//! Image-to-image translation.
