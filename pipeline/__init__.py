"""CNN Codes: transfer learning as a pipeline that people trust."""
