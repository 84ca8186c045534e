"""Pure torch: backbone -> FPN -> extension (upsampler, and detail from C2'), whole or on tiles."""
