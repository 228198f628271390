//! The bundled small world, its tasks and its labeler.
