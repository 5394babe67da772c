"""The bundled small model: its procedural pictures, captions and attribute reader."""
