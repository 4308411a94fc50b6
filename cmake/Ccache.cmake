# Compile through ccache where it is installed: a rebuild after a branch switch costs seconds, and so does the first
# build of another checkout, since paths are hashed relative to the tree.
find_program(SEALIFT_CCACHE ccache)
if(SEALIFT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(launcher ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1 ${SEALIFT_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()
