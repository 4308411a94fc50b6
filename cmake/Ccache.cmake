# Compile through ccache where it is installed: a rebuild after a branch switch costs seconds.
find_program(SEALIFT_CCACHE ccache)
if(SEALIFT_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_C_COMPILER_LAUNCHER ${SEALIFT_CCACHE})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${SEALIFT_CCACHE})
endif()
