"Whatever is drawn: pictures, tables, the panel."
